"""Signals: a process that is told to end says so in one line, whenever that is.

Every command begins with this module. It imports little, because before its handlers stand a Ctrl-C
is a traceback of Python's.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

GRACE = 30  # seconds that a process has to end by itself once it is told to
AGAIN = 1  # seconds after which it is told again
ENDING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
]


PARENT = os.getppid()  # as it was when this process began
_held: list[int] = []  # not empty: signals are held; those that came meanwhile


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()  # no message: DVC would show it
        self.number = number


def heeded() -> list[int]:
    """Return the signals to end on: what is ignored stays so (`nohup`, a script's `&`)."""
    return [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]


def _handlers() -> dict[int, signal.Handlers | Callable | int]:
    """Return what is to be put back; None, which stands for a handler of C code's, cannot be."""
    return {number: signal.getsignal(number) or signal.SIG_DFL for number in heeded()}


def hold() -> None:
    """Let signals wait: for `let_in`, or for the program that takes this one's place.

    The mask is for a program that is started from here. In this one it masks the main thread only:
    another one, of a library's, takes the signal, and the main thread's handler is called.
    """
    _held.append(0)
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def let_in() -> None:
    """Let signals come again, the one that waits at once."""
    came = [number for number in _held if number]
    _held.clear()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    if came:
        signal.raise_signal(came[0])


def end_at_once(line: str) -> int:
    """From now on let a signal print a line and end the process there and then.

    For a command's first moments and for imports. Nothing is to be tidied up then, and in the midst
    of an import some extension modules turn an exception into a crash.

    Args:
        line: for standard error, as that is now; "" for none.

    Returns:
        The file descriptor that the line goes to.
    """
    stderr = os.dup(2)

    def end(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # the terminal may have gone
            os.write(stderr, f"{line}\n".encode() if line else b"")
        os._exit(128 + number)

    for number in heeded():
        signal.signal(number, end)
    let_in()
    return stderr


@contextlib.contextmanager
def ending_at_once(line: str) -> Iterator[None]:
    """Do `end_at_once` in a block, in the main thread."""
    handlers = _handlers()
    stderr = end_at_once(line)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(stderr)


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal raise `Interrupted` in the block.

    After the first of them they are ignored: a second one must disturb neither the tidying up nor
    the way out. An exception that comes from nowhere can get lost, in a destructor, say, or in a
    callback of an import: then it is raised again after a second. Or another one can take its
    place, where C or Rust code met it: that one is an `Interrupted` too. What does not end within
    `GRACE` seconds is ended. To be used in the main thread.
    """
    handlers = _handlers()
    raised: list[int] = []
    deadline = 0.0

    def end(number: int, _: FrameType | None) -> None:
        nonlocal deadline
        if raised:
            return  # not SIG_IGN, which programs started from here would inherit
        if _held:
            _held.append(number)
            return
        raised.append(number)
        deadline = time.monotonic() + GRACE
        sys.unraisablehook = lambda _: None  # destructors complain of what is left half-made
        if hasattr(signal, "alarm"):  # not on Windows
            signal.signal(signal.SIGALRM, once_more)
            signal.alarm(AGAIN)
        raise Interrupted(number)

    def once_more(*_: object) -> None:
        signal.alarm(AGAIN)
        if time.monotonic() > deadline:
            os._exit(128 + raised[0])
        if not _held and not _being_handled():
            raise Interrupted(raised[0])

    for number in handlers:
        signal.signal(number, end)
    try:
        let_in()
        yield
        if raised:  # the exception got lost, and the work came to its end
            raise Interrupted(raised[0])
    except BaseException as error:
        if raised and not isinstance(error, Interrupted):
            raise Interrupted(raised[0]) from error
        raise
    finally:
        if raised and hasattr(signal, "alarm"):
            signal.alarm(0)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_IGN if raised else handler)


def _being_handled() -> bool:
    """Return whether an `Interrupted` is on its way out, through whatever tidies up."""
    error = sys.exc_info()[1]
    while error and not isinstance(error, Interrupted):
        error = error.__context__
    return error is not None


def status(interrupted: KeyboardInterrupt) -> int:
    """Return the exit status that tells a shell which signal ended a process."""
    return 128 + getattr(interrupted, "number", signal.SIGINT)


def leave(status: int) -> None:
    """End this process without Python's own clean-up.

    It takes TensorFlow half a second, in which a Ctrl-C would kill a stage whose work is done, and
    without a word.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the terminal may have gone
            stream.flush()
    os._exit(status)
