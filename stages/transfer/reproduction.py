"""Run a stage through DVC, so that its result is cached, or taken from the cache."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def reproduce(project: Path, stage: Callable[[Any], None]) -> None:
    """Bring one stage up to date: DVC calls its function, unless it has the result.

    Args:
        project: the folder of dvc.yaml.
        stage: the `main` of a module in `stages`, named as the stage is.

    Raises:
        SystemExit: the stage failed, and has said why.
    """
    name = stage.__module__.rpartition(".")[2]
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", name]
    if subprocess.run(command, cwd=project, check=False).returncode:  # noqa: S603
        sys.exit(f"error: stage {name} failed")
