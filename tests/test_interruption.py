"""Interruption: whatever is killed, and when, a second `dvc repro` ends in the same bytes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages.transfer.errors import PipelineError
from stages.transfer.interruption import alone_in
from stages.transfer.launcher import STAGES, process_of_dvc
from tests.conftest import BIN, PROJECT, Project

OURS = [stage for stage in STAGES if stage != "gate"]  # it writes nothing
LIMIT = 600  # seconds after which something hangs


def outputs(project: Project) -> dict[str, Any]:
    """Return the digest of each output, as dvc.lock has it."""
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())
    outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outs}


def forget(project: Project, stage: str) -> None:
    """Make DVC run a stage again, and nothing else."""
    path = project.folder / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    lock["stages"].pop(stage, None)
    path.write_text(yaml.safe_dump(lock))
    shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)


class Run:
    """A command, `dvc repro` if no other is given, in a process group of its own, as in a shell."""

    def __init__(
        self, project: Project, stage: str, command: Sequence[str] = (), folder: Path | None = None
    ) -> None:
        self.project, self.stage = project, stage
        self.log = project.folder.parent / f"log-{time.monotonic_ns()}.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command or [str(BIN / "dvc"), "repro", stage],
                cwd=folder or project.folder,
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

    def until_stage(self, moment: float | Callable[[], bool]) -> int:
        """Return the stage's process some seconds after its start, or once something holds."""
        end = time.monotonic() + LIMIT
        while (pid := self.stage_process()) is None:
            assert time.monotonic() < end, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        if callable(moment):
            while not moment():
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.002)
        else:
            time.sleep(moment)
        return pid

    def until_all_have_ended(self) -> int:
        """Return the exit status."""
        status = self.process.wait(LIMIT)
        end = time.monotonic() + LIMIT
        while self.stage_process():
            assert time.monotonic() < end, "the stage outlived its DVC"
            time.sleep(0.05)
        return status


@contextlib.contextmanager
def running(
    project: Project, stage: str, command: Sequence[str] = (), folder: Path | None = None
) -> Iterator[Run]:
    run = Run(project, stage, command, folder)
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()


def kill(run: Run, case: str, moment: float | Callable[[], bool]) -> None:
    """Send "<target>-<signal>" at a moment, then wait for all to end."""
    target, name = case.split("-")
    number = signal.Signals[name]
    stage_process = run.until_stage(moment)
    with contextlib.suppress(ProcessLookupError):  # it has just ended: a moment like any other
        if target == "stage":
            os.kill(stage_process, number)
        elif target == "group":
            os.killpg(run.process.pid, number)
        else:
            os.kill(run.process.pid, number)
    run.until_all_have_ended()
    log = run.log.read_text()
    assert "Traceback" not in log, log


def finish(project: Project, expected: dict[str, Any]) -> str:
    """Run what is left, compare with the undisturbed run; return what was said."""
    result = project.dvc("repro")
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert outputs(project) == expected
    assert "up to date" in project.dvc("status").stdout
    assert not list(project.folder.rglob(".partial-*"))
    return said


TARGETS = ("stage", "group", "dvc")
SIGNALS = ("SIGTERM", "SIGKILL")
MOMENTS = (0.2, 1.0, 2.5)  # seconds; stages here take about 4


@pytest.mark.faults
@pytest.mark.parametrize("stage", OURS)
def test_a_stage_killed_again_and_again_ends_in_the_same_bytes(
    finished: Project, tmp_path: Path, stage: str
) -> None:
    """Each stage meets each target, both signals and each moment, in turn."""
    project = finished.copy(tmp_path)
    expected = outputs(project)
    turn = OURS.index(stage)
    for place, target in enumerate(TARGETS):
        forget(project, stage)
        case = f"{target}-{SIGNALS[(turn + place) % 2]}"
        with running(project, stage) as run:
            kill(run, case, MOMENTS[(turn + place) % 3])
    finish(project, expected)


CASES = [[f"{target}-{number}" for number in SIGNALS] for target in TARGETS]


@pytest.mark.faults
@pytest.mark.parametrize("cases", CASES)
def test_features_lose_one_view_at_the_most(
    finished: Project, tmp_path: Path, cases: list[str]
) -> None:
    project = finished.copy(tmp_path)
    expected = outputs(project)
    forget(project, "features")
    done = project.folder / "data/checkpoints/features"
    for number, case in enumerate(cases):
        with running(project, "features") as run:
            kill(run, case, (done / f"train_view{number}.npy.finished.json").exists)
    kept = len(list(done.glob("[!.]*.finished.json")))  # a kill leaves halves, .partial-*
    assert kept >= 2
    assert f"{kept} of 3 files were finished" in finish(project, expected)


def epochs(project: Project) -> int:
    """Return how many epochs of fine-tuning a checkpoint holds."""
    try:
        with np.load(project.folder / "data/checkpoints/fine_tune/training.npz") as saved:
            return len(json.loads(str(saved["curve"])))
    except FileNotFoundError:
        return 0


@pytest.mark.faults
@pytest.mark.parametrize("cases", CASES)
def test_fine_tuning_loses_one_epoch_at_the_most(
    finished: Project, tmp_path: Path, cases: list[str]
) -> None:
    project = finished.copy(tmp_path)
    expected = outputs(project)
    forget(project, "fine_tune")
    for number, case in enumerate(cases, start=1):
        with running(project, "fine_tune") as run:
            kill(run, case, lambda number=number: epochs(project) >= number)  # type: ignore[misc]
    kept = epochs(project)
    assert kept >= 2
    assert f"fine_tune: goes on after epoch {kept} of 3" in finish(project, expected)


def interrupt(project: Project, command: Sequence[str], folder: Path | None = None) -> list[str]:
    """Press Ctrl-C in the midst of fine-tuning; return the lines of the log."""
    forget(project, "fine_tune")
    shutil.rmtree(project.folder / "data/checkpoints", ignore_errors=True)
    with running(project, "fine_tune", command, folder) as run:
        run.until_stage(lambda: epochs(project) > 0)
        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does: to all of them
        assert run.until_all_have_ended() not in (0, None)
    log = run.log.read_text()
    assert "Traceback" not in log, log
    assert log.count("fine_tune: interrupted; `dvc repro` goes on\n") == 1, log
    return log.splitlines()


def test_ctrl_c_is_one_line_and_the_next_run_goes_on(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path)
    expected = outputs(project)
    # The last line is DVC's. It runs a stage in the user's shell: bash becomes the stage, dash
    # waits for it and then ends by the same signal itself.
    assert interrupt(project, [])[-1].endswith(("exited with 130", "exited with -2"))
    assert "fine_tune: goes on after epoch" in finish(project, expected)


@pytest.mark.faults
def test_ctrl_c_in_0_transfer_and_in_make(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path)
    expected = outputs(project)
    here = tmp_path / "here"
    here.mkdir()
    log = interrupt(project, [sys.executable, str(project.folder / "0-transfer.py")], here)
    assert log[-1] == "interrupted; the next run goes on from there"
    assert not list(here.iterdir())

    (project.folder / ".venv").symlink_to(sys.prefix)
    makefile = str(PROJECT / "Makefile")
    interrupt(project, ["make", "-f", makefile, "-o", ".venv/runtime", "reproduce"])
    assert "fine_tune: goes on after epoch" in finish(project, expected)


@pytest.mark.faults
def test_ctrl_c_at_any_moment_of_a_stage_run_by_hand_is_one_line(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path)
    for moment in (0.2, 0.5, 1.0, 1.5, 2.0, 3.0):
        with running(project, "fine_tune", [sys.executable, "-m", "stages", "fine_tune"]) as run:
            run.until_stage(moment)
            run.process.send_signal(signal.SIGINT)
            assert run.process.wait(LIMIT) == 130, run.log.read_text()
        lines = run.log.read_text().splitlines()
        assert lines[-1] == "fine_tune: interrupted; `dvc repro` goes on"
        assert "Traceback (most recent call last):" not in lines


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_second_run_waits_for_a_stage_whose_dvc_was_killed(
    finished: Project, tmp_path: Path, number: int
) -> None:
    project = finished.copy(tmp_path)
    expected = outputs(project)
    forget(project, "fine_tune")
    with running(project, "fine_tune") as run:
        run.until_stage(lambda: epochs(project) > 0)
        run.process.send_signal(number)
        run.process.wait()  # else it stays a zombie, which DVC takes for a run that is at work
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
        run.until_stage((project.folder / "here").exists)
        run.process.kill()
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


def test_dvc_is_found_as_process_1_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose command is `dvc repro`."""
    own = ["/venv/bin/python3", "/venv/bin/dvc", "repro"]
    processes = {7: (1, ["sh", "-c", "python3 -m stages features"]), 1: (0, own)}
    monkeypatch.setattr("os.getppid", lambda: 7)
    monkeypatch.setattr("stages.transfer.launcher.command_of", processes.__getitem__)
    assert process_of_dvc() == (1, own)
    processes[1] = (0, ["/sbin/init"])
    assert process_of_dvc() is None
