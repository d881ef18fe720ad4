"""Two runs at once, in one checkout and over one cache: no corruption, and a clear message."""

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.test_interruption import LIMIT, Run, finish, forget, outputs, running


def end(run: Run) -> tuple[int, str]:
    """Wait for a run; return its exit status and what it said, which is no traceback."""
    status = run.process.wait(LIMIT)
    log = run.log.read_text()
    assert "Traceback" not in log, log
    return status, log


@pytest.mark.faults
@pytest.mark.parametrize("later", ["at once", "while the stage runs"])
def test_of_two_dvc_repro_in_one_checkout_one_finishes(
    finished: Project, tmp_path: Path, later: str
) -> None:
    project = finished.copy(tmp_path)
    expected = outputs(project)
    forget(project, "fine_tune")
    with running(project, "fine_tune") as first:
        if later == "while the stage runs":
            first.until_stage(0.5)
        with running(project, "fine_tune") as second:
            ends = [end(first), end(second)]
    refused = [log for status, log in ends if status]
    assert len(refused) < 2, refused
    for log in refused:
        assert "is being blocked by" in log or "Unable to acquire lock" in log, log
    if later == "while the stage runs":
        assert ends[0][0] == 0
        assert refused == [ends[1][1]]
    finish(project, expected)


@pytest.mark.faults
def test_a_stage_run_by_hand_waits_for_the_one_that_dvc_runs(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path)
    expected = outputs(project)
    forget(project, "fine_tune")
    with running(project, "fine_tune") as first:
        first.until_stage((project.folder / "data/checkpoints/fine_tune").exists)
        result = project.stage("fine_tune")
        assert end(first)[0] == 0
    assert result.returncode == 0, result.stderr
    assert "data: waits for another run in this folder to end" in result.stdout
    finish(project, expected)


def check_cache(cache: Path) -> int:
    """Check that each file in a cache has the digest that it is filed under; return how many."""
    files = [path for path in (cache / "files/md5").rglob("*") if path.is_file()]
    for path in files:
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        assert path.parent.name + path.name.removesuffix(".dir") == found
    return len(files)


@pytest.mark.faults
@pytest.mark.parametrize("links", ["copy", "hardlink"])
def test_two_clones_share_a_cache(finished: Project, tmp_path: Path, links: str) -> None:
    """Both make the same outputs at the same time; then one is killed, and makes others."""
    clones = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        clones.append(finished.copy(tmp_path / name))
    one, two = clones
    expected = outputs(one)
    shared = tmp_path / "shared"
    (one.folder / ".dvc/cache").rename(shared)
    for clone in clones:
        for setting in (["cache.dir", str(shared)], ["cache.type", links]):
            assert clone.dvc("config", "--local", *setting).returncode == 0
        forget(clone, "train_head")
        forget(clone, "fine_tune")
    (digest,) = (value for path, value in expected.items() if path == "cifar10.h5")
    (shared / "files/md5" / digest[:2] / digest[2:]).unlink()  # both have to store it
    shutil.rmtree(shared / "runs")

    with running(one, "fine_tune") as first, running(two, "fine_tune") as second:
        assert [end(first)[0], end(second)[0]] == [0, 0]
    before = check_cache(shared)
    assert finish(one, expected)

    two.set(fine_tune={"epochs": 1})
    forget(one, "fine_tune")
    shutil.rmtree(shared / "runs")
    with running(one, "fine_tune") as first, running(two, "fine_tune") as second:
        second.until_stage(1.0)
        os.killpg(second.process.pid, signal.SIGKILL)
        assert end(first)[0] == 0
    result = two.dvc("repro")
    assert result.returncode == 0, result.stdout + result.stderr
    assert outputs(two)["cifar10.h5"] != digest
    assert check_cache(shared) > before
    for clone in clones:
        made = outputs(clone)["cifar10.h5"]
        (clone.folder / "cifar10.h5").unlink()
        assert clone.dvc("checkout").returncode == 0
        content = (clone.folder / "cifar10.h5").read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == made
    finish(one, expected)


def test_a_second_dvc_repro_is_told_who_is_at_work(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path)
    path = project.folder / "stages/gate.py"
    path.write_text(
        path.read_text() + "\n\ndef main(params):\n    import time\n"
        "    open('here', 'w').close()\n    time.sleep(1000)\n"
    )
    with running(project, "gate") as first:
        first.until_stage((project.folder / "here").exists)
        began = time.monotonic()
        result = project.dvc("repro", "gate")
        assert result.returncode != 0
        assert time.monotonic() - began < LIMIT
    assert "is being blocked by" in result.stderr
    assert f"(PID {first.process.pid})" in result.stderr
    assert "Traceback" not in result.stderr
