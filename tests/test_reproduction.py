"""DVC run by this project: Ctrl-C ends all of it, whatever it was doing, and nothing is left."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.transfer.reproduction import remove_broken_lock
from tests.conftest import PROJECT, Project
from tests.test_interruption import LIMIT


def pids_in(folder: Path) -> list[int]:
    """Return all processes whose working folder is in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").resolve().is_relative_to(folder):
                found.append(int(entry.name))
    return found


def processes_in(folder: Path) -> list[str]:
    """Return their command lines."""
    return [read(pid, "cmdline").replace("\0", " ") for pid in pids_in(folder)]


def read(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text()
    return ""


def wait_until(path: Path) -> None:
    end = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


RUN_DVC = """
import sys
from pathlib import Path
from stages.transfer import signals
from stages.transfer import reproduction
reproduction.PATIENCE = 1
try:
    with signals.ending_on_signals():
        sys.exit(reproduction.run_dvc(["repro"], Path(sys.argv[1])))
except KeyboardInterrupt as error:
    sys.exit(signals.status(error))
"""


def two_stages(folder: Path, first: str, second: str) -> Path:
    """Make a project whose stages are shell scripts."""
    (folder / "stages").symlink_to(PROJECT / "stages")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    for name, script in (("first", first), ("second", second)):
        (folder / f"{name}.sh").write_text(script)
    (folder / "dvc.yaml").write_text(
        "stages:\n  first:\n    cmd: bash first.sh\n    outs: [a]\n"
        "  second:\n    cmd: bash second.sh\n    deps: [a]\n"
    )
    return folder


def start(
    folder: Path, *before: str, code: str = RUN_DVC, output: int = subprocess.PIPE
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*before, sys.executable, "-c", code, str(folder)],
        cwd=PROJECT,
        env={**os.environ, "SHELL": "/bin/bash"},
        text=True,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_stage_loses_ends_the_run_all_the_same(tmp_path: Path, number: int) -> None:
    """DVC ignores Ctrl-C while a stage runs, and would go on with the next one."""
    first = "sleep 0.5\ntrap 'touch lost' INT TERM\ntouch began\n"
    first += "while [ ! -e lost ]; do sleep 0.1; done\ntouch a\n"
    folder = two_stages(tmp_path, first, "touch second\n")
    with start(folder) as process:
        wait_until(folder / "began")
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number
    assert (folder / "lost").exists()
    assert not (folder / "second").exists()
    assert errors.splitlines()[-1] == "ERROR: interrupted by the user"
    assert not processes_in(folder)


def test_a_stage_that_does_not_end_is_killed(tmp_path: Path) -> None:
    first = "trap '' INT TERM\ntouch began\nsleep 100 & wait\n"
    folder = two_stages(tmp_path, first, "touch second\n")
    with start(folder) as process:
        wait_until(folder / "began")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGINT
    assert not (folder / "second").exists()
    assert not processes_in(folder)


def test_a_background_job_of_a_script_ends_on_sigterm(tmp_path: Path) -> None:
    """All in it ignore Ctrl-C."""
    folder = two_stages(tmp_path, "touch began\nsleep 100\n", "touch second\n")
    with start(folder, "env", "--ignore-signal=INT") as process:
        wait_until(folder / "began")
        process.terminate()
        began = time.monotonic()
        process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 2
    assert not processes_in(folder)


def test_dvc_ends_when_whoever_ran_it_is_killed(tmp_path: Path) -> None:
    folder = two_stages(tmp_path, "touch began\nsleep 2\ntouch a\n", "touch second; sleep 3\n")
    with start(folder, output=subprocess.DEVNULL) as process:
        wait_until(folder / "began")
        process.kill()
    end = time.monotonic() + LIMIT
    while processes_in(folder):
        assert time.monotonic() < end, processes_in(folder)
        time.sleep(0.1)
    assert not (folder / "second").exists()


def state(pid: int) -> str:
    return read(pid, "stat").rpartition(")")[2].split()[0]


def test_ctrl_z_stops_all_and_a_signal_then_ends_all(tmp_path: Path) -> None:
    """Another thread than the main one takes the signal then, of NumPy's, say."""
    folder = two_stages(tmp_path, "touch began\nwhile true; do sleep 0.1; echo x >> x; done\n", "")
    with start(folder, code=f"import numpy\n{RUN_DVC}") as process:
        wait_until(folder / "began")
        time.sleep(0.5)
        process.send_signal(signal.SIGTSTP)
        while state(process.pid) != "T":
            time.sleep(0.05)
        size = (folder / "x").stat().st_size
        time.sleep(1)
        assert (folder / "x").stat().st_size == size
        process.send_signal(signal.SIGCONT)
        time.sleep(1)
        assert (folder / "x").stat().st_size > size
        process.send_signal(signal.SIGTSTP)
        while state(process.pid) != "T":
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)  # as `kill %1` does, both
        process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 4
    assert not processes_in(folder)


def test_a_signal_while_dvc_is_being_started_ends_it(tmp_path: Path) -> None:
    """NumPy's threads take signals that the main thread has masked."""
    folder = two_stages(tmp_path, "touch first\nsleep 100\n", "")
    code = "import numpy, subprocess, os, signal\n" + RUN_DVC.replace(
        "try:\n",
        "whole = subprocess.Popen\n"
        "def started(*a, **k):\n"
        "    process = whole(*a, **k)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    import time; time.sleep(0.2)\n"
        "    return process\n"
        "subprocess.Popen = started\n"
        "try:\n",
        1,
    )
    with start(folder, code=code, output=subprocess.DEVNULL) as process:
        process.wait(LIMIT)
    assert process.returncode == 128 + signal.SIGINT
    assert not processes_in(folder)


@pytest.mark.faults  # it takes a minute, and the next one presses Ctrl-C in it
def test_the_demo_finishes_and_says_what_it_is_worth(fresh: Project) -> None:
    result = fresh.run(sys.executable, "-m", "stages.transfer.command", "demo")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Its accuracy means nothing" in result.stdout
    assert "| metrics.json |" in result.stdout


def test_dvc_ends_when_whoever_ran_it_was_killed_while_it_started(tmp_path: Path) -> None:
    """The parent is by then another one, which does not end."""
    folder = two_stages(tmp_path, "sleep 3\ntouch a\n", "touch second\n")
    code = (
        "import subprocess, sys\nfrom stages.transfer import command, signals\n"
        "ended = subprocess.Popen(['true'])\nended.wait()\nsignals.PARENT = ended.pid\n"
        "sys.exit(command.main('dvc', ['repro']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, stderr=subprocess.PIPE)
    assert done.returncode != 0
    assert not processes_in(folder)
    assert not (folder / "second").exists()


@pytest.mark.faults
def test_ctrl_c_at_any_moment_of_the_demo_is_a_line(fresh: Project, tmp_path: Path) -> None:
    """Not in the first moments, which are Python's own."""
    log = tmp_path / "log"
    for moment in (0.3, 0.7, 1.2, 1.6, 2, 2.5, 3, 4, 5, 7, 9, 12):
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "stages.transfer.command", "demo"],
                cwd=fresh.folder,
                stdout=file,
                stderr=file,
                env={**os.environ, "TMPDIR": str(tmp_path)},
                start_new_session=True,
            )
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(LIMIT) == 128 + signal.SIGINT, log.read_text()
        assert log.read_text().splitlines()[-1] == "demo: interrupted; nothing is left of it"
        assert "Traceback" not in log.read_text()
        assert not processes_in(tmp_path), moment
        assert [path.name for path in tmp_path.iterdir()] == ["log"], moment


def test_a_half_written_list_of_files_in_use_is_removed(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path)
    path = project.folder / ".dvc/tmp/rwlock"
    path.write_text('{"write": {"/data')
    assert "Unable to read RWLock-file" in project.dvc("repro", "download").stderr
    result = project.stage("check")
    assert result.returncode == 0
    assert re.fullmatch(r"\S+rwlock: was left half-written by .* removed\n", result.stdout)
    assert project.dvc("repro", "download").returncode == 0


def test_a_list_of_files_in_use_that_is_whole_stays(tmp_path: Path) -> None:
    remove_broken_lock(tmp_path)
    path = tmp_path / ".dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    remove_broken_lock(tmp_path)
    assert path.read_text() == "{}"
    for other in ("", "[]", "\xff"):
        path.write_text(other)
        remove_broken_lock(tmp_path)
        assert not path.exists()
