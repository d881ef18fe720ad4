"""Run a stage through DVC, so that its result is cached, or taken from the cache."""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE = 20  # seconds that DVC and its stage have to end after a Ctrl-C


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
    """Run DVC in a folder; return its exit status.

    Python kills a child soon after a Ctrl-C. The terminal has told DVC as well, which waits for its
    stage to end and then leaves its files whole, so it is given the time to.

    Args:
        arguments: of DVC.
        folder: where it runs.
        environment: for it; None hands on this process's.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment) as dvc:  # noqa: S603
        try:
            return dvc.wait()
        except KeyboardInterrupt as error:
            told = getattr(error, "number", signal.SIGINT) == signal.SIGINT
            try:
                dvc.wait(PATIENCE if told else 0)
            except subprocess.TimeoutExpired:
                dvc.terminate()
            raise
