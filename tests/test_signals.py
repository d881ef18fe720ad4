"""Signals: whenever one comes, a process ends in a line, and soon."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.transfer import command
from tests.conftest import PROJECT, Project, one_line


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    code = f"import os, signal, sys, time\nfrom stages.transfer import signals\n{code}"
    words = [sys.executable, "-c", code]
    return subprocess.run(words, cwd=PROJECT, text=True, capture_output=True, check=False)


def test_an_exception_that_gets_lost_is_raised_again() -> None:
    """In a destructor, for one."""
    lost = run_python(
        "class Loses:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "try:\n"
        "    with signals.ending_on_signals():\n        Loses()\n        time.sleep(100)\n"
        "except signals.Interrupted as error:\n    print(error.number, signal.alarm(0))\n"
    )
    assert (lost.stdout, lost.stderr) == (f"{int(signal.SIGTERM)} 0\n", "")


def test_work_that_ends_although_an_exception_got_lost_was_interrupted() -> None:
    """Else DVC, which ignores Ctrl-C while a stage runs, would go on with the next one."""
    lost = run_python(
        "try:\n"
        "    with signals.ending_on_signals():\n"
        "        try:\n            os.kill(os.getpid(), signal.SIGINT); time.sleep(100)\n"
        "        except BaseException:\n            pass\n"
        "except signals.Interrupted as error:\n    print(error.number)\n"
    )
    assert (lost.stdout, lost.stderr) == (f"{int(signal.SIGINT)}\n", "")


def test_a_process_that_loses_every_exception_is_ended() -> None:
    stubborn = run_python(
        "signals.GRACE = 2\n"
        "with signals.ending_on_signals():\n"
        "    while True:\n"
        "        try:\n            os.kill(os.getpid(), signal.SIGTERM); time.sleep(100)\n"
        "        except BaseException:\n            pass\n"
    )
    assert (stubborn.returncode, stubborn.stderr) == (128 + signal.SIGTERM, "")


def test_nothing_disturbs_what_tidies_up() -> None:
    """Neither a second Ctrl-C nor the reminder, and what it starts can be interrupted."""
    tidied = run_python(
        "import subprocess\n"
        "def tidy():\n"
        "    end = time.monotonic() + 2.5\n"
        "    while time.monotonic() < end:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        try:\n            os.stat('missing')\n"
        "        except OSError:\n            time.sleep(0.1)\n"
        "    show = 'import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)'\n"
        "    subprocess.run([sys.executable, '-c', show])\n"
        "    print('tidied')\n"
        "try:\n"
        "    with signals.ending_on_signals():\n"
        "        try:\n            os.kill(os.getpid(), signal.SIGTERM); time.sleep(100)\n"
        "        finally:\n            tidy()\n"
        "except signals.Interrupted as error:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    print(error.number)\n"
    )
    # The child flushes first: its output is not held in a buffer.
    assert (tidied.stdout, tidied.stderr) == (f"True\ntidied\n{int(signal.SIGTERM)}\n", "")


def test_an_exception_that_a_signal_has_turned_into_is_an_interruption() -> None:
    turned = run_python(
        "try:\n"
        "    with signals.ending_on_signals():\n"
        "        try:\n            os.kill(os.getpid(), signal.SIGTERM); time.sleep(100)\n"
        "        except BaseException:\n            raise RuntimeError('panic')\n"
        "except signals.Interrupted as error:\n    print(error.number)\n"
    )
    assert (turned.stdout, turned.stderr) == (f"{int(signal.SIGTERM)}\n", "")


def test_once_the_work_is_done_a_process_ends_as_it_did_before_it() -> None:
    """A stage that ignored Ctrl-C on its way out would let DVC go on with the next one."""
    done = run_python(
        "signals.end_at_once('ended')\n"
        "with signals.ending_on_signals():\n    pass\n"
        "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(100)\n"
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "ended\n")


@pytest.mark.parametrize("where", ["before", "while it is removed"])
def test_a_temporary_folder_is_removed_whole(tmp_path: Path, where: str) -> None:
    """With NumPy imported: its threads take signals that the main thread has masked."""
    interrupted = run_python(
        "import numpy, shutil, tempfile\nfrom stages.transfer.isolation import temporary_folder\n"
        f"tempfile.tempdir, where = {str(tmp_path)!r}, {where!r}\n"
        "whole = shutil.rmtree\n"
        "def removed(*a, **k):\n"
        "    if where != 'before': os.kill(os.getpid(), signal.SIGINT)\n"
        "    whole(*a, **k)\n"
        "shutil.rmtree = removed\n"
        "try:\n"
        "    with signals.ending_on_signals(), temporary_folder('x') as folder:\n"
        "        for i in range(300): (folder / str(i)).touch()\n"
        "        if where == 'before': os.kill(os.getpid(), signal.SIGINT); time.sleep(100)\n"
        "except signals.Interrupted as error:\n    print(error.number)\n"
    )
    assert (interrupted.stdout, interrupted.stderr) == (f"{int(signal.SIGINT)}\n", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_during_imports_a_process_ends_there_and_then(number: int) -> None:
    """Rust's part of pydantic panics if `import datetime` raises in it: nothing is raised."""
    ended = run_python(
        "with signals.ending_on_signals(), signals.ending_at_once('ended'):\n"
        "    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as quiet_stderr has it\n"
        f"    try:\n        os.kill(os.getpid(), {number:d}); time.sleep(100)\n"
        "    finally:\n        print('went on', flush=True)\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", "ended\n")


def test_after_imports_an_exception_is_raised_again() -> None:
    raised = run_python(
        "try:\n"
        "    with signals.ending_on_signals():\n"
        "        with signals.ending_at_once('ended'): pass\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(100)\n"
        "except signals.Interrupted as error:\n    print(error.number)\n"
    )
    assert (raised.stdout, raised.stderr) == (f"{int(signal.SIGINT)}\n", "")


def test_what_is_ignored_stays_so() -> None:
    """As under nohup, or in a script's background job."""
    done = run_python(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signals.end_at_once('ended')\n"
        "with signals.ending_on_signals(), signals.ending_at_once('ended'):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\nprint('done')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("-m stages check", "check: interrupted; `dvc repro` goes on\n"),
        ("-m stages.transfer.command verify", f"{command.COMMANDS['verify'][1]}\n"),
        ("-m stages.transfer.command dvc status", ""),
    ],
)
def test_a_signal_that_comes_while_python_starts_anew_waits_for_its_handler(
    words: str, line: str
) -> None:
    """A stage goes on in DVC's interpreter. A traceback there would be Python's own."""
    held = run_python(
        "signals.hold()\nos.kill(os.getpid(), signal.SIGINT)\n"
        f"os.execv(sys.executable, [sys.executable, *{words!r}.split()])\n"
    )
    assert (held.returncode, held.stdout, held.stderr) == (128 + signal.SIGINT, "", line)


CTRL_C_DURING_IMPORTS = """
import signal, sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder)
sys.argv[1:] = {arguments!r}
import runpy
runpy.{run}
"""


def ctrl_c(project: Project, during: str, run: str, *arguments: str) -> str:
    """Press Ctrl-C while a module is being imported; return the line that is said."""
    code = CTRL_C_DURING_IMPORTS.format(module=during, run=run, arguments=list(arguments))
    result = project.run(sys.executable, "-c", code)
    assert result.returncode == 128 + signal.SIGINT
    return one_line(result)


@pytest.mark.parametrize("during", ["stages.transfer.launcher", "logging", "pydantic", "keras"])
def test_ctrl_c_while_a_stage_imports_is_a_line(fresh: Project, during: str) -> None:
    said = ctrl_c(fresh, during, "run_module('stages', run_name='__main__')", "features")
    assert said == "features: interrupted; `dvc repro` goes on"


@pytest.mark.parametrize("name", ["demo", "bench", "verify"])
def test_ctrl_c_while_a_command_imports_is_a_line(name: str, fresh: Project) -> None:
    run = "run_module('stages.transfer.command', run_name='__main__')"
    assert ctrl_c(fresh, "numpy", run, name) == command.COMMANDS[name][1]


def test_ctrl_c_while_0_transfer_imports_is_a_line(fresh: Project) -> None:
    run = "run_path('0-transfer.py', run_name='__main__')"
    assert ctrl_c(fresh, "numpy", run) == "interrupted; the next run goes on from there"
