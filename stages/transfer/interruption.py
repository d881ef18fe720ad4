"""Interruption: a stage that is told to end does so in one line, and is never left behind.

What it goes on from next time is in `checkpoints`.

Standard library only: the launcher needs it before the environment is settled.
"""

import contextlib
import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from stages.transfer.errors import PipelineError
from stages.transfer.paths import CHECKPOINTS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE = 60  # seconds that a run waits for one before it that is about to end
GRACE = 30  # seconds that a stage has to end by itself once it is told to
ENDING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
]


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal raise `Interrupted` in the block.

    After the first of them, and after the block, they are ignored: a second one must disturb
    neither the tidying up nor the way out. An exception that comes from nowhere can get lost, in a
    destructor, say; then SIGALRM ends the process. Or another one can take its place, where C or
    Rust code met it: that one is an `Interrupted` too. What is ignored stays so (`nohup`, a
    script's background job). To be used in the main thread.
    """
    numbers = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
    raised: list[int] = []

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def end(number: int, _: FrameType | None) -> None:
        ignore()
        if hasattr(signal, "alarm"):  # not on Windows
            signal.alarm(GRACE)
        raised.append(number)
        raise Interrupted(number)

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    except BaseException as error:
        if raised and not isinstance(error, Interrupted):
            raise Interrupted(raised[0]) from error
        raise
    finally:
        ignore()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let signals wait until the block ends.

    For imports: in the midst of them some extension modules turn an exception into a crash. To be
    used in the main thread, within `ending_on_signals`.
    """
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)  # the grace begins when the signal is passed on

    handlers = {
        number: signal.signal(number, note)
        for number in ENDING
        if callable(signal.getsignal(number))
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def status(interrupted: KeyboardInterrupt) -> int:
    """Return the exit status that tells a shell which signal ended a process."""
    return 128 + getattr(interrupted, "number", signal.SIGINT)


def end_with(pid: int) -> None:
    """Send this process SIGTERM when another one, DVC, has ended, however it did.

    A stage that outlived its DVC would write outputs that nobody records, and be in the way of the
    next run.
    """

    def wait() -> None:
        wait_for(pid)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
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
    """Remove the checkpoints of stages whose results DVC has recorded, because a later one runs."""
    for stage in stages:
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
