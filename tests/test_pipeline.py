"""The whole pipeline under real DVC, on drawn images, from an environment that is not activated."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from stages.transfer.launcher import STAGES
from tests.conftest import BIN, Project, one_line


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return finished.copy(tmp_path)


def test_a_finished_pipeline_runs_nothing_again(finished: Project) -> None:
    result = finished.dvc("repro")
    assert result.returncode == 0
    assert finished.ran(result) == []
    assert "up to date" in finished.dvc("status").stdout


def test_outputs_hold_what_their_stages_promise(finished: Project) -> None:
    data = finished.folder / "data"
    with np.load(data / "processed/cifar10.npz") as arrays:
        assert arrays["x_train"].shape == (270, 32, 32, 3)
        assert arrays["x_dev"].shape == (30, 32, 32, 3)
        assert arrays["x_train"].dtype == arrays["y_test"].dtype == np.uint8
        assert (np.bincount(arrays["y_dev"]) == 3).all()
        assert arrays["class_names"][0] == "red disc"
    plain, mirrored = (np.load(data / f"features/train_view{i}.npy") for i in (0, 1))
    assert plain.dtype == np.float16
    assert plain.shape == mirrored.shape == (270, 2, 2, 512)
    assert (plain != mirrored).any()
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert set(metrics) == {
        "val_accuracy",
        "val_loss",
        "dev_accuracy_after_head",
        "dev_accuracy_after_fine_tune",
        "class_accuracy",
    }
    assert metrics["val_accuracy"] == pytest.approx(
        np.mean(list(metrics["class_accuracy"].values())), abs=2e-6
    )


def test_what_a_change_reruns(project: Project) -> None:
    """One after the other, because each costs its stages."""

    def reruns(**change: dict) -> list[str]:
        project.set(**change)
        result = project.dvc("repro")
        assert result.returncode == 0, result.stdout + result.stderr
        return project.ran(result)

    assert reruns(gate={"minimum": 0.01}) == ["gate"]
    after_features = ["train_head", "fine_tune", "evaluate"]
    ran = reruns(fine_tune={"learning_rate": 0.002})
    assert ran[:2] == ["fine_tune", "evaluate"]
    assert set(ran) <= {"fine_tune", "evaluate", "gate"}  # gate only if the metrics moved
    project.set(train_head={"learning_rate": 0.02})
    assert project.ran(project.dvc("repro", "--dry"))[0] == "train_head"
    ran = reruns(features={"shift": 2})
    assert ran[:4] == ["features", *after_features]
    assert set(ran) <= {"features", *after_features, "gate"}


def test_fine_tuning_starts_from_the_head_that_was_trained(project: Project) -> None:
    """With no epochs the saved head is train_head's; perturbed, cifar10.h5 is another."""
    project.set(fine_tune={"epochs": 0})
    path = project.folder / "data/head/head.npz"
    with np.load(path) as file:
        head = dict(file)

    def kernel_saved() -> np.ndarray:
        assert project.stage("fine_tune").returncode == 0
        found = {}
        with h5py.File(project.folder / "cifar10.h5") as saved:
            saved["model_weights"].visititems(lambda path, item: found.update({path: item}))
            (kernel,) = (item[:] for path, item in found.items() if path.endswith("logits/kernel"))
        return kernel

    np.testing.assert_array_equal(kernel_saved(), head["kernel"])
    perturbed = head | {"kernel": head["kernel"] + 1}
    np.savez(path, **perturbed)
    np.testing.assert_array_equal(kernel_saved(), perturbed["kernel"])


def test_the_gate_fails_the_pipeline_and_leaves_the_metrics(project: Project) -> None:
    before = (project.folder / "metrics.json").read_text()
    project.set(gate={"minimum": 0.999})
    result = project.dvc("repro")
    assert result.returncode != 0
    assert "gate: FAILED, val_accuracy" in result.stderr
    assert "Traceback" not in result.stderr
    assert (project.folder / "metrics.json").read_text() == before
    assert "val_accuracy" in project.dvc("metrics", "show").stdout
    assert project.dvc("repro").returncode != 0  # it is no more lenient the second time

    (project.folder / "metrics.json").write_text('{"val_accuracy": NaN}')
    assert "gate: FAILED" in one_line(project.stage("gate"))
    (project.folder / "metrics.json").unlink()
    assert "gate: FAILED" in one_line(project.stage("gate"))


def test_overwriting_the_model_in_place_leaves_the_cache_alone(project: Project) -> None:
    """Whoever does it, root included: in the workspace as built and as checked out again."""
    model = project.folder / "cifar10.h5"
    whole = model.read_bytes()
    for _ in range(2):
        with model.open("r+b") as file:  # the same inode
            file.write(b"overwritten")
        model.unlink()
        assert project.dvc("checkout").returncode == 0
        assert model.read_bytes() == whole


def test_features_are_stored_once(finished: Project, tmp_path: Path) -> None:
    copy_on_write = ["cp", "--reflink=always", str(finished.folder / "dvc.yaml"), str(tmp_path)]
    if subprocess.run(copy_on_write, capture_output=True, check=False).returncode == 0:
        pytest.skip("this file system shares the blocks of copies: nothing to see")
    for path in (finished.folder / "data/features").iterdir():
        assert path.stat().st_nlink == 2, f"{path} and DVC's cache hold a copy each"
    assert (finished.folder / "cifar10.h5").stat().st_nlink == 1


def test_what_dvc_users_type_shows_something_sensible(project: Project) -> None:
    dag = project.dvc("dag").stdout
    assert all(stage in dag for stage in STAGES)
    assert "val_accuracy" in project.dvc("metrics", "show").stdout
    plots = project.dvc("plots", "show", "-o", "shown")
    assert plots.returncode == 0, plots.stderr
    page = (project.folder / "shown/index.html").read_text()
    assert "red disc" in page
    assert "dev_accuracy" in page
    project.set(fine_tune={"dropout": 0.5})
    assert "fine_tune.dropout" in project.dvc("params", "diff").stdout


def test_an_experiment_runs_and_is_listed(project: Project) -> None:
    run = project.dvc("exp", "run", "evaluate", "-S", "fine_tune.dropout=0.4", "-n", "dropped")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (
        yaml.safe_load((project.folder / "params.yaml").read_text())["fine_tune"]["dropout"] == 0.4
    )
    shown = project.dvc("exp", "show", "--csv").stdout
    assert "dropped" in shown
    assert "val_accuracy" in shown


def test_0_transfer_leaves_the_model_where_the_user_is(project: Project, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (project.folder / "cifar10.h5").unlink()  # the cache has it
    command = [sys.executable, str(project.folder / "0-transfer.py")]
    run = subprocess.run(command, cwd=here, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert project.ran(run) == []
    made = (here / "cifar10.h5").read_bytes()
    assert made == (project.folder / "cifar10.h5").read_bytes()
    assert [p.name for p in here.iterdir()] == ["cifar10.h5"]


def test_another_python_hands_over_to_the_projects_or_says_what_to_do(
    project: Project, tmp_path: Path
) -> None:
    """Debian's python3, say, has none of the packages."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = str(bare / "bin/python3")
    assert "make reproduce" in one_line(project.run(python, "0-transfer.py"))
    assert "requirements.txt" in one_line(project.run(python, "-m", "stages", "check"))
    # Under dvc the stages move to dvc's own environment, whatever `python3` is.
    path = f"{bare / 'bin'}:/usr/bin:/bin"
    for minimum, command in (
        (0.02, [str(BIN / "dvc")]),
        (0.03, [str(BIN / "python"), "-W", "ignore", "-m", "dvc"]),
        (0.04, [os.path.relpath(BIN / "python", project.folder), "-m", "dvc"]),
    ):
        project.set(gate={"minimum": minimum})
        result = project.run(*command, "repro", PATH=path)
        assert result.returncode == 0, result.stderr
        assert project.ran(result) == ["gate"]


@pytest.mark.parametrize(
    ("change", "stage", "said"),
    [
        ({"backbone": {"cut": "block2_poo"}}, "features", "nearest: block2_pool"),
        ({"backbone": {"name": "MobileNet"}}, "features", "expected the weights of MobileNet"),
    ],
)
def test_a_setting_that_does_not_fit_leaves_nothing_half_written(
    project: Project, change: dict, stage: str, said: str
) -> None:
    project.set(**change)
    shutil.rmtree(project.folder / "data/features")
    assert said in one_line(project.stage(stage))
    assert not (project.folder / "data/features").exists()
    assert not list((project.folder / "data").rglob(".partial*"))


def test_a_damaged_dataset_is_one_line(fresh: Project, tmp_path: Path) -> None:
    """The digest is accepted here, so that preprocess meets what is inside."""
    from stages.transfer import synthetic

    project = fresh.copy(tmp_path)
    archive = project.folder / "data/raw/cifar-10-python.tar.gz"
    content = synthetic.members(20)
    content["test_batch"][b"labels"] = [10] * 20
    synthetic.write_archive(archive, content)
    assert "label 10" in one_line(project.stage("preprocess"))
    archive.write_bytes(archive.read_bytes()[:1000])
    assert "not a whole tar.gz" in one_line(project.stage("preprocess"))
    archive.unlink()
    assert "data/raw" in one_line(project.stage("preprocess"))
    assert not (project.folder / "data/processed/cifar10.npz").exists()


def test_0_transfer_refuses_before_any_work(fresh: Project, tmp_path: Path) -> None:
    script = str(fresh.folder / "0-transfer.py")
    assert "expected no arguments" in one_line(fresh.run(sys.executable, script, "--epochs=3"))
    shutil.copy(script, tmp_path)
    alone = Project(tmp_path, fresh.mirror)
    assert "has no folder stages" in one_line(alone.run(sys.executable, "0-transfer.py"))
    (tmp_path / "cifar10.h5").mkdir()
    assert "cannot be written" in one_line(alone.run(sys.executable, script))
    without = "import runpy, sys\nsys.modules['pooch'] = None\n"  # as where it is not installed
    without += f"runpy.run_path({script!r}, run_name='__main__')"
    assert "lacks a required package" in one_line(fresh.run(sys.executable, "-c", without))
