"""A command run and measured from outside: its seconds and the peak of its anonymous memory."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from stages.transfer.errors import PipelineError
from stages.transfer.reproduction import COMMAND

PROC = Path("/proc")
INTERVAL = 1.0  # seconds between two samples of memory
MIB = 2**20


class Run(NamedTuple):
    """What running a command gave.

    Attributes:
        seconds: wall time, the process's start and end included.
        peak_mib: peak memory of the process and its descendants, MiB (see `PeakMemory`).
        lines: its standard output.
        came: when each line came, in seconds from the start.
        memory: a sample each second: seconds from the start, MiB.
    """

    seconds: float
    peak_mib: float
    lines: list[str]
    came: list[float]
    memory: list[tuple[float, float]]

    @property
    def stages(self) -> dict[str, float]:
        """Return the stages that DVC said it began, in order, and when it did."""
        return {
            line.split("'")[1]: at
            for line, at in zip(self.lines, self.came, strict=True)
            if line.startswith("Running stage '")
        }


def process_tree(root: int) -> list[int]:
    """Return a process and all its descendants as /proc shows them, [] if it has ended."""
    children: dict[int, list[int]] = {}
    alive = set()
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # The name, in brackets, may hold blanks and brackets itself.
            parent = int(
                (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            )
            children.setdefault(parent, []).append(int(folder.name))
            alive.add(int(folder.name))
    found = [root] if root in alive else []
    for pid in found:
        found += children.get(pid, [])
    return found


def anonymous_bytes(root: int) -> int:
    """Return the anonymous resident memory of a process and its descendants, in bytes.

    Files that are mapped are left out: the kernel drops them when memory is short. Pages that two
    processes share after a fork count twice.
    """
    total = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "status").read_text(errors="replace").splitlines():
                if line.startswith("RssAnon:"):
                    total += 1024 * int(line.split()[1])
    return total


class PeakMemory(threading.Thread):
    """Samples a process tree's anonymous memory until its block ends.

    Attributes:
        bytes: the largest sample.
        samples: when each was taken, as `time.perf_counter` has it, and its bytes.
    """

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self.samples: list[tuple[float, int]] = []
        self._root = root
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Take a sample every `INTERVAL` seconds, the first at once."""
        while True:
            self.samples.append((time.perf_counter(), anonymous_bytes(self._root)))
            self.bytes = max(self.bytes, self.samples[-1][1])
            if self._ended.wait(INTERVAL):
                return


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Run:
    """Run a command, show its standard output as it comes, and measure it.

    It gets a session of its own: should this process be interrupted, all that the command started
    is killed before the exception goes on, so that its folder can be removed.

    Args:
        command: program and arguments.
        folder: where it runs.
        environment: all of its environment.

    Raises:
        PipelineError: it failed; the message is its own `error:` line if it printed one, else the
            last line of its standard error.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert process.stdout  # noqa: S101 - a pipe was asked for
        lines, came = [], []
        try:
            with PeakMemory(process.pid) as memory:
                for line in process.stdout:
                    lines.append(line.rstrip("\n"))
                    came.append(time.perf_counter() - started)
                    print(lines[-1], flush=True)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                seconds = time.perf_counter() - started
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if process.returncode:
            errors.seek(0)
            raise PipelineError(f"{_shown(command)}: {_reason(process.returncode, errors.read())}")
    # Without /proc the largest single process stands in, its mapped files included; macOS counts
    # it in bytes, others in KiB.
    largest = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    samples = [(at - started, amount / MIB) for at, amount in memory.samples]
    return Run(seconds, (memory.bytes or largest) / MIB, lines, came, samples)


def _shown(command: Sequence[str]) -> str:
    """Return a command in short: what follows `python -m`, or all of it."""
    if tuple(command[: len(COMMAND)]) == COMMAND:
        return " ".join(command[len(COMMAND) :])
    return " ".join(command[2:] if "-m" in command[1:2] else command)


def _reason(status: int, errors: str) -> str:
    """Say why a command failed: its own error line, its last line, or its exit status."""
    if status == -signal.SIGKILL:
        return "was killed: most likely there is too little memory"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (own or lines[-1:] or [f"exit status {status}"])[0]
