"""Interruption: whatever is killed, and when, a second `dvc repro` ends in the same bytes."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.__main__ import STAGES
from tests.conftest import LIMIT, Project

# What a stage takes, the start of DVC included, on two cores.
SECONDS = {"download": 1.5, "preprocess": 1.5, "backbone": 5, "fine_tune": 10}
KILLS = int(os.environ.get("KILLS", "8"))  # at random moments
# All but the gate, which writes nothing; first those that resume, then the last ones.
KILLED = sorted(STAGES[-2::-1], key=lambda stage: stage not in ("features", "fine_tune"))


def forget(project: Project, stage: str) -> None:
    """Make DVC run a stage again."""
    path = project.folder / "dvc.lock"
    lock = YAML().load(path)
    lock["stages"].pop(stage, None)
    YAML().dump(lock, path)
    shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)


def stage_process(project: Project) -> int | None:
    """Return the process of the stage that runs in a project's folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if command[1:3] == [b"-m", b"stages"] and (entry / "cwd").samefile(project.folder):
                return int(entry.name)
    return None


def kill(project: Project, dvc: "subprocess.Popen[bytes]", target: str) -> None:
    """Send SIGKILL. Where it has just ended, that is a moment like any other."""
    with contextlib.suppress(ProcessLookupError):
        if target == "group":
            os.killpg(dvc.pid, signal.SIGKILL)
        elif target == "dvc":  # its stage goes on
            dvc.kill()
        elif stage := stage_process(project):
            os.kill(stage, signal.SIGKILL)
    dvc.wait(LIMIT)


def finish(project: Project, expected: dict[str, str]) -> str:
    """Run what is left, compare with the undisturbed run; return what was said."""
    result = project.dvc("repro")
    # DVC's own files, which it does not replace whole: the README says what to do.
    for name, complaint in ((".dvc/tmp/rwlock", "RWLock-file"), ("dvc.lock", "dvc.lock")):
        if result.returncode and complaint in result.stderr:
            print(f"half-written: {name}")
            (project.folder / name).unlink()
            result = project.dvc("repro")
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert project.outputs() == expected
    assert "up to date" in project.dvc("status").stdout
    assert project.halves() == []
    return said


@pytest.mark.faults
def test_kills_at_random_moments_end_in_the_same_bytes(project: Project) -> None:
    """The stages in turn; two kills of each before it may end."""
    expected = project.outputs()
    rng = random.Random(KILLS)
    for number in range(KILLS):
        stage = KILLED[number // 2 % len(KILLED)]
        target = rng.choice(["stage", "dvc", "group"])
        moment = rng.uniform(0.3, SECONDS.get(stage, 6))
        if number % 2 == 0:
            forget(project, stage)
        with project.start("dvc", "repro", stage) as dvc:
            with contextlib.suppress(subprocess.TimeoutExpired):
                dvc.wait(moment)
            print(f"{number}: {target} of {stage} after {moment:.2f} s, ended: {dvc.poll()}")
            kill(project, dvc, target)
        if number % 2:
            finish(project, expected)
    assert "Traceback" not in project.log.read_text(), project.log.read_text()
    finish(project, expected)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "content"), [("dvc.lock", ""), (".dvc/tmp/rwlock", '{"write": {"/data')]
)
def test_what_a_kill_leaves_half_written_of_dvcs_own_can_be_removed(
    project: Project, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = project.outputs()
    (project.folder / name).write_text(content)
    finish(project, expected)
    assert capsys.readouterr().out == f"half-written: {name}\n"


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.faults),
        pytest.param(signal.SIGKILL, marks=pytest.mark.faults),
    ],
)
def test_fine_tuning_goes_on_after_its_last_epoch(project: Project, number: signal.Signals) -> None:
    expected = project.outputs()
    model = (project.folder / "cifar10.h5").read_bytes()
    with project.start("python3", "-m", "stages", "fine_tune") as process:
        project.wait_until((project.folder / "data/checkpoint/fine_tune.npz").exists)
        process.send_signal(number)
        status = process.wait(LIMIT)
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 130
        said = project.log.read_text()
        assert said.endswith("\nfine_tune: interrupted; run `dvc repro` to resume\n")
        assert "Traceback" not in said
        assert project.halves() == []
    assert (project.folder / "cifar10.h5").read_bytes() == model
    forget(project, "fine_tune")
    assert re.search("fine_tune: resuming after epoch [12] of 3", finish(project, expected))
