"""The checkpoint: what is damaged, or by its fingerprint of another run, is not used."""

import contextlib
import io
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import params
from stages.training.checkpoint import Checkpoint, fingerprint

PROJECT = Path(__file__).resolve().parents[1]
ARRAYS = {"variable0": np.arange(20.0), "best": np.ones(3, "f4"), "curve": np.array("[{}]")}


def test_it_serves_its_own_run_only_and_is_removed_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint(tmp_path / "new/a.npz", "this run")
    assert checkpoint.load() is None
    checkpoint.save({"x": np.zeros(3)})
    checkpoint.save(ARRAYS)
    found = Checkpoint(checkpoint.path, "this run").load()
    assert found
    assert found.keys() == ARRAYS.keys()

    assert Checkpoint(checkpoint.path, "another run").load() is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "a.npz: from a different run (settings, inputs, code or environment); starting" in line

    checkpoint.remove()
    checkpoint.remove()
    assert list((tmp_path / "new").iterdir()) == []


@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3),
    share=st.just(1.0) | st.floats(0, 1),
)
def test_a_damaged_one_is_none_or_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]], share: float
) -> None:
    checkpoint = Checkpoint(tmp_path_factory.getbasetemp() / "damaged.npz", "this run")
    checkpoint.save(ARRAYS)
    data = bytearray(checkpoint.path.read_bytes())
    for place, change in flips:
        data[int(place * len(data))] ^= change
    checkpoint.path.write_bytes(data[: round(share * len(data))])
    with contextlib.redirect_stdout(io.StringIO()) as said:
        found = checkpoint.load()
    if found is None:
        assert "damaged" in said.getvalue() or "from a different run" in said.getvalue()
        return
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_fingerprint_differs_when_anything_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PROJECT / "dvc.yaml", "dvc.yaml")
    settings = params.load(PROJECT / "params.yaml")
    for path in map(Path, params.definition("fine_tune")["deps"]):
        file = path if path.suffix else path / "a.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("as it was")

    def now(section: str = "gate", **changes: object) -> str:
        changed = getattr(settings, section).model_copy(update=changes)
        return fingerprint("fine_tune", settings.model_copy(update={section: changed}))

    assert now() == now("gate", minimum=0.123)  # fine-tuning does not depend on it
    prints = [now(), now("fine_tune", seed=9)]
    for path in (p for p in tmp_path.rglob("*") if p.is_file() and p.name != "dvc.yaml"):
        path.write_text("as it is now")
        prints.append(now())
    Path("stages/training/new.py").touch()
    prints.append(now())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    prints.append(now())
    monkeypatch.setattr(metadata, "version", lambda _: "9.9")
    prints.append(now())
    assert len(set(prints)) == len(prints) > 8
