"""NaN and infinity stop real stages in one line, and leave what was there before."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.conftest import Project, one_line

pytestmark = pytest.mark.faults


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return finished.copy(tmp_path)


def set_weight(path: Path, name: str, value: float) -> None:
    """Set all of the one weight of an .h5 file whose name ends so."""
    whole = path.read_bytes()
    path.unlink()  # its bytes may be those of DVC's cache
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        found: list[h5py.Dataset] = []
        file.visititems(lambda where, item: found.append(item) if where.endswith(name) else None)
        (weight,) = found
        weight[...] = value


def set_head(path: Path, **values: object) -> None:
    with np.load(path) as saved:
        head = dict(saved)
    path.unlink()
    np.savez(path, **head | {name: head[name] * 0 + value for name, value in values.items()})


def test_a_loss_that_is_no_number_stops_a_run(project: Project) -> None:
    set_head(project.folder / "data/head/head.npz", kernel=1e38)
    before = (project.folder / "cifar10.h5").read_bytes()
    project.set(fine_tune={"learning_rate": 1.0})
    said = one_line(project.stage("fine_tune"))
    assert said.startswith("error: fine_tune: the loss became ")
    assert "in step 1 of epoch 1, at a rate of " in said
    assert "lower fine_tune.learning_rate" in said
    assert (project.folder / "cifar10.h5").read_bytes() == before
    assert not list((project.folder / "data/checkpoints").rglob("*.npz"))


@pytest.mark.parametrize(("weight", "value"), [("logits/bias", np.nan), ("conv3/kernel", np.inf)])
def test_a_model_that_holds_no_numbers_is_not_measured(
    project: Project, weight: str, value: float
) -> None:
    metrics = (project.folder / "metrics.json").read_bytes()
    name = weight.replace("conv3", "block5_conv3")
    set_weight(project.folder / "cifar10.h5", name, value)
    said = one_line(project.stage("evaluate"))
    assert f"{name} holds NaN or infinity; train again with a lower fine_tune" in said
    assert (project.folder / "metrics.json").read_bytes() == metrics


def test_a_model_that_gives_no_numbers_is_not_measured(project: Project) -> None:
    metrics = (project.folder / "metrics.json").read_bytes()
    set_weight(project.folder / "cifar10.h5", "logits/kernel", 1e38)
    said = one_line(project.stage("evaluate"))
    assert "error: cifar10.h5 gives NaN or infinity; train again" in said
    assert (project.folder / "metrics.json").read_bytes() == metrics


def test_a_head_of_no_accuracy_is_not_reported(project: Project) -> None:
    metrics = (project.folder / "metrics.json").read_bytes()
    set_head(project.folder / "data/head/head.npz", dev_accuracy=np.nan)
    said = one_line(project.stage("evaluate"))
    assert "data/head/head.npz: dev_accuracy is nan, expected a share from 0 to 1" in said
    assert (project.folder / "metrics.json").read_bytes() == metrics


def test_a_backbone_that_holds_no_numbers_is_not_used(project: Project) -> None:
    own = project.folder / "mine.weights.h5"
    own.write_bytes((project.folder / "data/backbone/backbone.weights.h5").read_bytes())
    with h5py.File(own, "r+") as file:
        file["layers/conv2d_3/vars/0"][...] = np.nan
    kept = (project.folder / "data/backbone/backbone.weights.h5").read_bytes()
    project.set(backbone={"weights": "mine.weights.h5"})
    said = one_line(project.stage("backbone"))
    assert "mine.weights.h5: " in said
    assert "holds NaN or infinity" in said
    assert (project.folder / "data/backbone/backbone.weights.h5").read_bytes() == kept
