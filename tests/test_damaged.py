"""Outputs that are damaged between two stages: one line that names the file, by hand too.

Under `dvc repro` DVC brings them back first.
"""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from stages.transfer import activations
from stages.transfer.dataset import arrays, mapped
from stages.transfer.errors import PipelineError
from stages.transfer.files import reading
from tests.conftest import Project, one_line


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)


def lacking(*names: str) -> Callable[[Path], None]:
    def lack(path: Path) -> None:
        with np.load(path) as file:
            kept = {name: file[name] for name in file if name not in names}
        np.savez(path, **kept)

    return lack


def replaced(name: str, value: np.ndarray) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        with np.load(path) as file:
            kept = dict(file)
        np.savez(path, **kept | {name: value})

    return replace


def weights_only(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]


@pytest.mark.parametrize("spoil", [truncate, empty, garbage, lacking("x")])
@pytest.mark.parametrize("read", [lambda path: mapped(path, "x"), lambda path: arrays(path, "x")])
def test_an_npz_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(1000), y=np.ones(3))
    spoil(path)
    with pytest.raises(PipelineError, match=r"a\.npz: damaged \(.*; run `dvc repro`") as error:
        read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spoil", [truncate, empty, garbage])
def test_activations_are_named(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(1000, np.float16))
    spoil(path)
    with pytest.raises(PipelineError, match=r"a\.npy: damaged \("):
        activations.load(path)


def test_what_is_missing_or_forbidden_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.h5"), reading(tmp_path / "a.h5"):
        h5py.File(tmp_path / "a.h5")
    with pytest.raises(IsADirectoryError), reading(tmp_path):
        tmp_path.read_bytes()


CASES: list[tuple[str, str, Callable[[Path], object]]] = [
    *(("features", "data/processed/cifar10.npz", spoil) for spoil in (truncate, lacking("x_dev"))),
    *(("train_head", "data/features/dev.npy", spoil) for spoil in (truncate, empty)),
    *(("fine_tune", "data/head/head.npz", spoil) for spoil in (truncate, lacking("bias"))),
    ("fine_tune", "data/head/head.npz", replaced("bias", np.zeros(3))),
    ("fine_tune", "dvc.yaml", empty),
    ("fine_tune", "dvc.yaml", lambda path: path.write_bytes(b"a: [")),
    ("evaluate", "data/head/head.npz", replaced("dev_accuracy", np.array("high"))),
    *(("evaluate", "cifar10.h5", spoil) for spoil in (truncate, weights_only, Path.unlink)),
]


@pytest.mark.faults
def test_a_stage_run_by_hand_names_the_file(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path)
    for stage, name, spoil in CASES:
        path = project.folder / name
        whole = path.read_bytes()
        spoil(path)
        line = one_line(project.stage(stage))
        assert line.startswith(f"error: {name}"), line
        assert "run `dvc repro`" in line
        path.write_bytes(whole)
