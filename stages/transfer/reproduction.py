"""Run a stage through DVC, so that its result is cached, or taken from the cache."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.transfer import interruption

COMMAND = (sys.executable, "-m", "stages.transfer.command")
DVC = (*COMMAND, "dvc")
PATIENCE = 4  # seconds that DVC and its stage have to end in before they are told again
TIMES = 5  # that they are told; all of it lasts less than `signals.GRACE`


def reproduce(project: Path, stage: Callable[[Any], None]) -> None:
    """Bring one stage up to date: DVC calls its function, unless it has the result.

    Args:
        project: the folder of dvc.yaml.
        stage: the `main` of a module in `stages`, named as the stage is.

    Raises:
        SystemExit: the stage failed, and has said why.
    """
    name = stage.__module__.rpartition(".")[2]
    if run_dvc(["repro", "--single-item", name], project):
        sys.exit(f"error: stage {name} failed")


def run_dvc(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> int:
    """Run DVC in a folder; return its exit status when it and all that it started have ended.

    It gets a process group of its own, so that a terminal's Ctrl-C reaches it through this process
    alone: see `end_group`.

    Args:
        arguments: of DVC.
        folder: where it runs; `stages` lies there.
        environment: for it; None hands on this process's.
    """

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603
            [*DVC, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )

    # Signals are held as it starts, and DVC inherits that: it lets them in when its handlers stand.
    with interruption.owning(start, end_group) as dvc, _stopping_too(dvc.pid):
        while True:  # waiting for good, the main thread would not see what another one took
            with contextlib.suppress(subprocess.TimeoutExpired):
                return dvc.wait(timeout=60)


@contextlib.contextmanager
def _stopping_too(group: int) -> Iterator[None]:
    """Let Ctrl-Z stop a process group with this process, and go on with it."""

    def stop(*_: object) -> None:
        os.killpg(group, signal.SIGSTOP)
        try:
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:  # what came meanwhile may raise
            os.killpg(group, signal.SIGCONT)

    if not hasattr(signal, "SIGTSTP") or signal.getsignal(signal.SIGTSTP) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """End what is left of a process group: by SIGTERM, again and again, at last by force.

    Not by SIGINT: DVC ignores it while a stage runs, and trusts that the stage ends by it. One that
    gets lost on the way there (to a shell script in front of Python, say, that is between two
    commands) would let DVC go on with the next stage. In a background job all ignore it.

    Args:
        leader: the group's first process, a child of this one.
    """
    if not hasattr(os, "killpg"):  # Windows
        leader.terminate()
        return
    for _ in range(TIMES):
        if not _alive(leader):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader.pid, signal.SIGTERM)
        end = time.monotonic() + PATIENCE
        while _alive(leader) and time.monotonic() < end:
            time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, signal.SIGKILL)


def _alive(leader: subprocess.Popen[bytes]) -> bool:
    leader.poll()  # else it stays in the group as a zombie
    try:
        os.killpg(leader.pid, 0)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of zombies
        return False
    return True


def remove_broken_lock(project: Path) -> None:
    """Remove DVC's list of the files in use if it has been left half-written.

    DVC writes it in place. A kill or a Ctrl-C in the midst of that leaves a half, over which every
    later command stumbles.

    Args:
        project: the folder of dvc.yaml.
    """
    path = project / ".dvc/tmp/rwlock"
    for _ in range(3):  # another DVC may be writing it
        try:
            if isinstance(json.loads(path.read_bytes()), dict):
                return
        except FileNotFoundError:
            return
        except ValueError:
            pass
        time.sleep(0.3)
    path.unlink(missing_ok=True)
    print(f"{path}: was left half-written by a DVC that was interrupted; removed", flush=True)
