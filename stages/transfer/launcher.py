"""The launcher: what is the same for all stages.

It moves to the environment that DVC runs from, checks params.yaml whole, and turns a mistake of
whoever runs it into one line. Results do not depend on it, so it is no dependency in dvc.yaml.
Until the environment is settled it uses the standard library only.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stages.transfer import faults, interruption, signals
from stages.transfer.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stages.transfer.params import Params

MOVED = "CIFAR10_TRANSFER_MOVED"
# Environment variables; the last two would cut training short behind the back of params.yaml.
UNWANTED = ("TF_USE_LEGACY_KERAS", "KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")
STAGES = (
    "download",
    "backbone",
    "preprocess",
    "features",
    "train_head",
    "fine_tune",
    "evaluate",
    "gate",
)


def command_of(pid: int) -> tuple[int, list[str]]:
    """Return a process's parent and its command line, (0, []) if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        with open(f"/proc/{pid}/cmdline") as file:
            return parent, file.read().split("\0")[:-1]
    except OSError:  # no /proc, as on macOS
        shown = subprocess.run(  # noqa: S603
            ["ps", "-o", "ppid=,command=", "-p", str(pid)],  # noqa: S607
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        ).stdout.split()
        return (int(shown[0]), shown[1:]) if shown else (0, [])


def process_of_dvc() -> tuple[int, list[str]] | None:
    """Return the DVC process that this one descends from, its number and command line, or None."""
    pid = os.getppid()
    while pid:
        parent, command = command_of(pid)
        words = [os.path.basename(word) for word in command[1:8]]
        if "dvc" in words and os.path.basename(command[0]).lower().startswith("python"):
            return pid, command
        pid = parent
    return None


def interpreter(pid: int, command: list[str]) -> str | None:
    """Return the interpreter of a process that runs Python.

    DVC runs a stage's command in a shell, where `python3` is whatever PATH says: without an
    activated environment that is the system's, not DVC's own.
    """
    if os.sep not in command[0]:
        return shutil.which(command[0])
    python = os.path.join(f"/proc/{pid}/cwd", command[0])  # as it is, if it is absolute
    return os.path.join(os.path.realpath(os.path.dirname(python)), "python3")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what libraries print to stderr; show it only if the block fails.

    TensorFlow's C++ parts report a missing GPU and the like before any log level is in force, in a
    dozen lines among which an error would be lost.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except (ImportError, KeyboardInterrupt):  # the message says all
            raise
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def lacks(error: ImportError) -> int:
    """Say what this interpreter lacks; return the exit status."""
    print(
        f"error: {sys.executable} has no module {error.name}; run `make reproduce`, or dvc from an "
        "environment with requirements.txt installed",
        file=sys.stderr,
    )
    return 1


def main(arguments: list[str], interrupted: str) -> int:
    """Run a stage, or check params.yaml, and say in one line why that failed, or was interrupted.

    Args:
        arguments: a stage's name, or "check".
        interrupted: what to say when it was.

    Returns:
        The exit status.
    """
    under_dvc = "DVC_STAGE" in os.environ
    try:
        with signals.ending_on_signals():
            return start(arguments, interrupted)
    except PipelineError as error:
        line, status = f"error: {' '.join(str(error).split())}", 1
    except OSError as error:
        line, status = f"error: {faults.line(error, under_dvc)}", 1
    except KeyboardInterrupt as error:
        line, status = interrupted, signals.status(error)
    with contextlib.suppress(OSError):  # the terminal may have gone
        print(line, file=sys.stderr, flush=True)
    return status


def start(arguments: list[str], interrupted: str) -> int:
    """Settle the environment, check params.yaml, run the stage; return the exit status."""
    dvc = process_of_dvc()
    if dvc and (python := interpreter(*dvc)):
        here = os.path.realpath(os.path.dirname(sys.executable))
        if os.path.dirname(python) != here and not os.environ.pop(MOVED, None):
            os.environ[MOVED] = "1"  # once: what a process list shows is not always what runs
            signals.hold()
            os.execv(python, [python, "-m", "stages", *arguments])  # noqa: S606
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    for name in UNWANTED:
        os.environ.pop(name, None)
    if dvc:
        interruption.end_with(dvc[0])
    elif "DVC_STAGE" in os.environ and (os.getppid() == 1 or os.getppid() != signals.PARENT):
        raise PipelineError("DVC has ended before this stage began; run `dvc repro` again")
    if arguments not in [["check"], *([stage] for stage in STAGES)]:
        got = " ".join(arguments) or "no argument"
        raise PipelineError(f"{got}: expected check or one of {', '.join(STAGES)}")
    try:
        with signals.ending_at_once(interrupted):
            from stages.transfer import params
    except ImportError as error:
        return lacks(error)
    checked = params.load()
    if arguments == ["check"]:
        from stages.transfer import reproduction

        reproduction.remove_broken_lock(Path())
        return 0
    return run(arguments[0], checked, interrupted)


def run(name: str, checked: Params, interrupted: str) -> int:
    """Run a stage, the parameters checked, alone in this folder; return the exit status."""
    writes = name != "gate"
    with interruption.alone_in(Path("data")) if writes else contextlib.nullcontext():
        if writes and "DVC_STAGE" in os.environ:  # by hand nothing is recorded
            interruption.clear_checkpoints(STAGES[: STAGES.index(name)])
        try:
            with signals.ending_at_once(interrupted), quiet_stderr():
                stage = importlib.import_module(f"stages.{name}")
        except ImportError as error:
            return lacks(error)
        # Keras warns each time that .h5 is a format of the past; it is the one asked for.
        logging.getLogger("absl").setLevel(logging.ERROR)
        stage.main(checked)
        if writes:
            from stages.transfer import checkpoints, environment, params

            now, then = (checkpoints.parameters(name, each) for each in (params.load(), checked))
            if changed := [key for key in then if now[key] != then[key]]:
                raise PipelineError(
                    f"params.yaml: {', '.join(changed)} changed while {name} ran, and DVC would "
                    "record what stands there now; run `dvc repro` again"
                )
            environment.record(name)
    return 0
