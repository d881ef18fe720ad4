"""The whole pipeline under real DVC, on drawn images."""

import json
import os
import re
import shutil
import signal

import h5py
import numpy as np
import pytest
from ruamel.yaml import YAML

from stages.__main__ import STAGES
from stages.data.dataset import PARTS
from stages.paths import ARCHIVE
from stages.runtime import description
from tests.conftest import BIN, LIMIT, PROJECT, Project, one_line


def test_a_finished_pipeline_runs_nothing_again(project: Project) -> None:
    """Whether or not Python has left its bytecode in the folders that stages depend on."""
    caches = [path.parent.name for path in project.folder.rglob("__pycache__")]
    assert {"stages", "data", "nets", "training"} <= set(caches)
    assert project.repro() == []
    for path in list(project.folder.rglob("__pycache__")):
        shutil.rmtree(path)
    assert "up to date" in project.dvc("status").stdout
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_the_report_is_drawn_before_the_gate_can_fail(finished: Project) -> None:
    assert finished.repro("--dry", "--force") == list(STAGES)


def test_outputs_hold_what_their_stages_promise(finished: Project) -> None:
    data = finished.folder / "data"
    images = np.load(data / "processed/images.npy")
    assert images.shape == (360, 32, 32, 3)
    with np.load(data / "processed/labels.npz") as arrays:
        assert [len(arrays[part]) for part in PARTS] == [270, 30, 60]
        assert (images.dtype, arrays["labels"].dtype) == (np.uint8, np.uint16)
        assert (np.bincount(arrays["labels"][arrays["dev"]]) == 3).all()
        assert arrays["class_names"][0] == "red disc"
    plain, mirrored = (np.load(data / f"features/train_view{i}.npy") for i in (0, 1))
    assert plain.dtype == np.float16
    assert plain.shape == mirrored.shape == (270, 2, 2, 512)
    assert (plain != mirrored).any()
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    by_class = np.loadtxt(
        data / "evaluate/class_accuracy.csv", delimiter=",", skiprows=1, usecols=1
    )
    assert metrics["val_accuracy"] == pytest.approx(by_class.mean(), abs=2e-6)
    trained = saved(finished, "block5_conv3/kernel")
    in_bfloat16 = "avx512_bf16" in description()["instructions"].split()
    # The first 16 of float32's 32 bits are a bfloat16.
    assert (trained.view(np.uint32) % 2**16 == 0).all() == in_bfloat16
    assert not (data / "checkpoint/fine_tune.npz").exists()
    assert finished.halves() == []


def test_what_a_change_reruns(project: Project) -> None:
    """Directly, that is: what follows runs if the outputs have changed."""

    def reruns() -> list[str]:
        """Return what would run, then undo the change."""
        ran = project.repro("--dry")
        assert project.run("git", "checkout", ".").returncode == 0
        return ran

    def edit(*names: str) -> list[str]:
        for name in names:
            with (project.folder / "stages" / name).open("a") as file:
                file.write("# a comment\n")
        return reruns()

    assert edit("__main__.py", "params.py", "errors.py") == []
    assert edit("data/views.py") == ["features"]
    assert edit("data/folders.py") == ["preprocess"]
    assert edit("training/recipe.py") == ["train_head", "fine_tune"]
    assert edit("training/head.py") == ["train_head", "fine_tune"]
    assert edit("training/cpu.py") == ["features", "train_head", "fine_tune"]  # it has bfloat16
    assert edit("classifier.py") == ["fine_tune"]
    assert edit("nets/cut.py") == ["features", "train_head", "fine_tune"]
    project.set(backbone={"image_size": 64})  # of the same weights
    assert reruns() == ["features", "train_head", "fine_tune", "evaluate"]
    project.set(features={"views": 3})
    assert reruns() == ["features", "fine_tune"]


def test_fine_tuning_starts_from_the_head_that_was_trained(project: Project) -> None:
    """With no epochs the saved head is train_head's; perturbed, cifar10.h5 is another."""
    path = project.folder / "data/head/head.npz"
    with np.load(path) as file:
        head = dict(file) | {"kernel": file["kernel"] + 1}
    np.savez(path, **head)
    project.set(fine_tune={"epochs": 0})
    assert project.stage("fine_tune").returncode == 0
    np.testing.assert_array_equal(saved(project, "predictions/kernel"), head["kernel"])


def saved(project: Project, name: str) -> np.ndarray:
    """Return a weight that is in cifar10.h5."""
    found = {}
    with h5py.File(project.folder / "cifar10.h5") as file:
        file["model_weights"].visititems(lambda name, item: found.update({name: item}))
        (weight,) = (item[:] for path, item in found.items() if path.endswith(name))
    return weight


def test_the_gate_fails_the_pipeline_and_leaves_the_metrics(project: Project) -> None:
    before = (project.folder / "metrics.json").read_text()
    project.set(gate={"minimum": 0.999})
    for _ in range(2):  # it is no more lenient the second time
        result = project.dvc("repro")
        assert result.returncode != 0
        assert "error: gate: FAILED, val_accuracy" in result.stderr
        assert "Traceback" not in result.stderr
    assert (project.folder / "metrics.json").read_text() == before
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


def test_an_experiment_runs_and_is_shown(project: Project) -> None:
    run = project.dvc("exp", "run", "evaluate", "-S", "evaluate.batch_size=7", "-n", "sevens")
    assert run.returncode == 0, run.stdout + run.stderr
    params = YAML().load(project.folder / "params.yaml")
    assert params["evaluate"]["batch_size"] == 7
    shown = project.dvc("exp", "show", "--csv").stdout
    assert "sevens" in shown
    assert "val_accuracy" in shown
    assert "val_accuracy" in project.dvc("metrics", "show").stdout
    plots = project.dvc("plots", "show", "-o", "shown")
    assert plots.returncode == 0, plots.stderr
    page = (project.folder / "shown/index.html").read_text()
    assert "red disc" in page
    assert "dev_accuracy" in page
    assert "mistakes.png" in page
    assert "confusion.png" in page


def test_what_is_damaged_or_missing_is_named_and_comes_back(project: Project) -> None:
    expected = project.outputs()
    archive = project.folder / ARCHIVE
    archive.write_bytes(archive.read_bytes()[:5000])
    assert one_line(project.stage("preprocess")).startswith(f"error: {ARCHIVE}: ")
    activations = project.folder / "data/features/dev.npy"
    activations.write_bytes(activations.read_bytes()[:5000])
    said = one_line(project.stage("train_head"))
    assert re.fullmatch(r"error: data/features/dev\.npy: damaged \(.*\); run `dvc repro`", said)
    (project.folder / "data/head/curve.csv").unlink()
    said = one_line(project.stage("evaluate"))
    assert said.startswith("error: data/head/curve.csv is missing; `dvc repro` regenerates outputs")
    assert project.repro() == []
    assert project.outputs() == expected
    assert "up to date" in project.dvc("status").stdout


def test_fine_tuning_that_is_forced_trains_again(project: Project) -> None:
    expected = project.outputs()
    result = project.dvc("repro", "--force", "--single-item", "fine_tune")
    assert "Epoch 1/3" in result.stdout, result.stdout + result.stderr
    assert "resuming" not in result.stdout
    assert project.outputs() == expected


@pytest.fixture
def slow_gate(project: Project) -> Project:
    """A finished project whose gate waits for a file, go."""
    path = project.folder / "stages/gate.py"
    path.write_text(
        path.read_text()
        + "\n\ndecide = main\n\n\ndef main(params):\n    import pathlib, time\n"
        + "    pathlib.Path('here').touch()\n"
        + "    while not pathlib.Path('go').exists(): time.sleep(0.01)\n    decide(params)\n"
    )
    return project


def test_settings_that_change_while_a_stage_runs_are_not_recorded(slow_gate: Project) -> None:
    before = (slow_gate.folder / "dvc.lock").read_text()
    with slow_gate.start("dvc", "repro", "gate") as process:
        slow_gate.wait_until((slow_gate.folder / "here").exists)
        slow_gate.set(gate={"minimum": 0.01})
        (slow_gate.folder / "go").touch()
        assert process.wait(LIMIT) != 0
    said = slow_gate.log.read_text()
    assert "error: params.yaml: gate.minimum changed while gate ran, and DVC would record " in said
    assert (slow_gate.folder / "dvc.lock").read_text() == before
    assert slow_gate.repro() == ["gate"]


def test_a_second_run_in_a_folder_waits_and_says_for_whom(slow_gate: Project) -> None:
    with slow_gate.start("python3", "-m", "stages", "gate") as first:
        slow_gate.wait_until((slow_gate.folder / "here").exists)
        with slow_gate.start("python3", "-m", "stages", "download") as second:
            said = f"waiting for stage gate (pid {first.pid})\n"
            slow_gate.wait_until(lambda: slow_gate.log.read_text() == said)
            assert second.poll() is None
            (slow_gate.folder / "go").touch()
            assert [first.wait(LIMIT), second.wait(LIMIT)] == [0, 0]
    assert "cifar-10-python.tar.gz: " in slow_gate.log.read_text()


def test_ctrl_c_under_dvc_is_one_line(slow_gate: Project) -> None:
    with slow_gate.start("dvc", "repro", "gate") as process:
        slow_gate.wait_until((slow_gate.folder / "here").exists)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        assert process.wait(LIMIT) != 0
    said = slow_gate.log.read_text()
    assert said.count("gate: interrupted; run `dvc repro` to resume\n") == 1, said
    assert "Traceback" not in said


def test_it_works_in_a_folder_without_git(project: Project) -> None:
    """As GitHub's "Download ZIP" leaves it. DVC is told so, until there is a repository."""
    shutil.rmtree(project.folder / ".git")
    assert "is not a git repository" in project.dvc("status").stderr
    for _ in range(2):
        assert project.stage("check").returncode == 0
        assert "no_scm" in (project.folder / ".dvc/config.local").read_text()
    project.set(gate={"minimum": 0.01})
    assert project.repro() == ["gate"]
    assert project.run("git", "init", "-q").returncode == 0
    assert project.stage("check").returncode == 0
    assert "no_scm" not in (project.folder / ".dvc/config.local").read_text()


@pytest.mark.faults  # it takes long
def test_the_demo_runs_it_all_with_another_net() -> None:
    """From nothing, without Git."""
    made = Project(PROJECT, PROJECT).run("make", "-s", "-o", ".venv/runtime", "demo", f"BIN={BIN}")
    assert made.returncode == 0, made.stdout + made.stderr
    assert " cut at block_2_add, " in made.stdout
    assert "| metrics.json |" in made.stdout
    assert made.stdout.endswith("Its accuracy is meaningless: generated images, random backbone.\n")
