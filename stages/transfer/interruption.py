"""Interruption: a stage is never left behind, and never two write into one folder.

How it ends in one line is in `signals`, what it goes on from next time in `checkpoints`.

Standard library only: the launcher needs it before the environment is settled.
"""

import contextlib
import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from stages.transfer import signals
from stages.transfer.errors import PipelineError
from stages.transfer.paths import CHECKPOINTS, FEATURES, MODEL

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RESULTS = {"features": FEATURES, "fine_tune": MODEL}  # of the stages that have checkpoints
T = TypeVar("T")
PATIENCE = 60  # seconds that a run waits for one before it that is about to end


@contextlib.contextmanager
def owning(make: Callable[[], T], dispose: Callable[[T], None]) -> Iterator[T]:
    """Make something for a block, and dispose of it after it, whenever a signal comes.

    Signals are let in for the block alone: between making and the block, or in the midst of
    disposing, one would leave the thing behind.
    """
    signals.hold()
    try:
        thing = make()
        try:
            signals.let_in()
            yield thing
        finally:
            signals.hold()
            dispose(thing)
    finally:
        signals.let_in()


def end_with(pid: int) -> None:
    """Send this process SIGTERM when another one, which runs it, has ended, however it did.

    A stage that outlived its DVC would write outputs that nobody records, and be in the way of the
    next run; a DVC that outlived `make verify` would work on for nobody.

    Args:
        pid: the other process, which need not be the parent.
    """

    def wait() -> None:
        wait_for(pid)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(signals.GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def wait_for(pid: int) -> None:
    """Return when a process, which need not be a child, has ended."""
    try:
        descriptor = os.pidfd_open(pid)  # Linux
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        with contextlib.suppress(ProcessLookupError):
            while True:
                with contextlib.suppress(PermissionError):  # it is there, and another user's
                    os.kill(pid, 0)
                time.sleep(1)
        return
    select.select([descriptor], [], [])
    os.close(descriptor)


def clear_checkpoints(stages: Sequence[str], folder: Path = CHECKPOINTS) -> None:
    """Remove the checkpoints of stages whose results DVC has recorded, because a later one runs.

    Unless the result is missing: then DVC was told to run the later one alone, which will fail.
    """
    for stage in stages:
        if stage in RESULTS and RESULTS[stage].exists():
            shutil.rmtree(folder / stage, ignore_errors=True)


@contextlib.contextmanager
def alone_in(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a folder's lock, which the operating system takes back however this process ends.

    Args:
        folder: where outputs are written.
        patience: seconds to wait for a run that holds it.

    Raises:
        PipelineError: it is still held then.
    """
    if fcntl is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder, patience)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, patience: float) -> None:
    end, told = time.monotonic() + patience, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise PipelineError(
                    f"{folder.resolve()} is in use by another run of this pipeline for more than "
                    f"{patience:.0f} s; wait until it has ended, or end it, then `dvc repro`"
                ) from None
            if not told:
                print(f"{folder}: waits for another run in this folder to end", flush=True)
                told = True
            time.sleep(0.5)
        except OSError:
            return  # a file system that has no locks
        else:
            return
