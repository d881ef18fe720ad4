"""Interruption: whatever is killed, and when, a second `dvc repro` ends in the same bytes."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.__main__ import STAGES
from stages.transfer.errors import PipelineError
from stages.transfer.interruption import alone_in
from tests.conftest import BIN, Project

OURS = [stage for stage in STAGES if stage != "gate"]  # it writes nothing
LIMIT = 120  # seconds after which something hangs


def outputs(project: Project) -> dict[str, Any]:
    """Return the digest of each output, as dvc.lock has it."""
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())
    outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outs}


def forget(project: Project, stage: str) -> None:
    """Make DVC run a stage again, and nothing else."""
    path = project.folder / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    del lock["stages"][stage]
    path.write_text(yaml.safe_dump(lock))
    shutil.rmtree(project.folder / ".dvc/cache/runs")


class Run:
    """A `dvc repro` in a process group of its own, as a shell starts one."""

    def __init__(self, project: Project, stage: str) -> None:
        self.project, self.stage = project, stage
        self.log = project.folder.parent / "log.txt"
        with self.log.open("w") as log:
            self.dvc = subprocess.Popen(
                [BIN / "dvc", "repro", stage],
                cwd=project.folder,
                env={**os.environ, "MIRROR": str(project.mirror)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stage_process(self) -> int | None:
        """Return the process of the stage, if it runs."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                same = (entry / "cwd").resolve() == self.project.folder.resolve()
                if same and command[1:4] == [b"-m", b"stages", self.stage.encode()]:
                    return int(entry.name)
        return None

    def until_stage(self, moment: float | str) -> int:
        """Return the stage's process some seconds after its start, or when a file is there."""
        end = time.monotonic() + LIMIT
        while (pid := self.stage_process()) is None:
            assert time.monotonic() < end, self.log.read_text()
            assert self.dvc.poll() is None, self.log.read_text()
            time.sleep(0.01)
        if isinstance(moment, str):
            while not (self.project.folder / moment).exists():
                assert self.stage_process(), self.log.read_text()
                time.sleep(0.002)
        else:
            time.sleep(moment)
        return pid

    def until_all_have_ended(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.dvc.wait(LIMIT)
        end = time.monotonic() + LIMIT
        while self.stage_process():
            assert time.monotonic() < end, "the stage outlived its DVC"
            time.sleep(0.05)


@contextlib.contextmanager
def running(project: Project, stage: str) -> Iterator[Run]:
    run = Run(project, stage)
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.dvc.pid, signal.SIGKILL)
        run.dvc.wait()


def kill(run: Run, target: str, number: int, stage_process: int) -> None:
    """Send a signal; that the process has just ended by itself is a moment like any other."""
    with contextlib.suppress(ProcessLookupError):
        if target == "stage":
            os.kill(stage_process, number)
        elif target == "group":
            os.killpg(run.dvc.pid, number)
        else:
            os.kill(run.dvc.pid, number)


def check(finished: Project, folder: Path, stage: str, moment: float | str, case: str) -> str:
    """Kill a run, run again, compare with the undisturbed one; return what the second run said."""
    project = finished.copy(folder)
    expected = outputs(project)
    forget(project, stage)
    target, number = case.split("-")
    with running(project, stage) as run:
        process = run.until_stage(moment)
        kill(run, target, signal.Signals[number], process)
        run.until_all_have_ended()
    log = run.log.read_text()
    assert "Traceback" not in log, log
    result = project.dvc("repro")
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert outputs(project) == expected
    assert "up to date" in project.dvc("status").stdout
    assert not list(project.folder.rglob(".partial-*"))
    return said


CASES = [f"{t}-{s}" for t in ("stage", "group", "dvc") for s in ("SIGTERM", "SIGKILL")]
FRACTIONS = {"early": 0.3, "middle": 2.0, "late": 3.5}  # seconds; stages here take about 4


@pytest.mark.faults
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stage", OURS)
def test_a_killed_stage_ends_in_the_same_bytes(
    finished: Project, tmp_path: Path, stage: str, case: str
) -> None:
    turn = (OURS.index(stage) + CASES.index(case)) % len(FRACTIONS)  # each moment with each stage
    check(finished, tmp_path, stage, list(FRACTIONS.values())[turn], case)


@pytest.mark.faults
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("stage", "file", "line"),
    [
        ("features", "data/checkpoints/features/train_view0.npy", "of 3 files were finished"),
        ("fine_tune", "data/checkpoints/fine_tune/training.npz", "goes on after epoch"),
    ],
)
def test_a_long_stage_goes_on_from_its_checkpoint(
    finished: Project, tmp_path: Path, stage: str, file: str, line: str, case: str
) -> None:
    assert line in check(finished, tmp_path, stage, file, case)


def test_a_terminated_stage_says_one_line_and_the_next_run_goes_on(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path)
    expected = outputs(project)
    forget(project, "fine_tune")
    with running(project, "fine_tune") as run:
        process = run.until_stage("data/checkpoints/fine_tune/training.npz")
        os.kill(process, signal.SIGINT)
        run.until_all_have_ended()
    log = run.log.read_text().splitlines()
    own = [line for line in log if "interrupted" in line]
    assert own == ["fine_tune: interrupted; `dvc repro` goes on"]
    assert "exited with 130" in log[-1]
    result = project.dvc("repro")
    assert result.returncode == 0
    assert "fine_tune: goes on after epoch" in result.stdout
    assert outputs(project) == expected


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_second_run_waits_for_a_stage_whose_dvc_was_killed(
    finished: Project, tmp_path: Path, number: int
) -> None:
    project = finished.copy(tmp_path)
    expected = outputs(project)
    forget(project, "fine_tune")
    with running(project, "fine_tune") as run:
        run.until_stage("data/checkpoints/fine_tune/training.npz")
        run.dvc.send_signal(number)
        result = project.dvc("repro")  # at once, while the orphan may still run
        assert result.returncode == 0, result.stdout + result.stderr
        assert run.stage_process() is None
    assert outputs(project) == expected


@pytest.mark.faults
def test_a_stage_that_hangs_without_dvc_is_ended(finished: Project, tmp_path: Path) -> None:
    """Even one that does not look at signals, as in a long call into a library."""
    project = finished.copy(tmp_path)
    path = project.folder / "stages/evaluate.py"
    path.write_text(
        path.read_text() + "\n\ndef main(params):\n    import signal, time\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "    open('here', 'w').close()\n    time.sleep(1000)\n"
    )
    with running(project, "evaluate") as run:
        run.until_stage("here")
        run.dvc.kill()
        run.until_all_have_ended()


def test_a_folder_in_use_is_said_and_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone_in(tmp_path / "data"):
        with (
            pytest.raises(PipelineError, match="data is in use by another run of this pipeline"),
            alone_in(tmp_path / "data", patience=0.1),
        ):
            pass
        assert "waits for another run in this folder to end" in capsys.readouterr().out
    with alone_in(tmp_path / "data", patience=0):
        pass
