"""`make point POINT=fastest`: run settings that points.yaml names, as an experiment of DVC's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

POINTS = Path(__file__).with_name("points.yaml")


def settings(name: str) -> dict[str, Any]:
    """Return named settings, value by "section.key"; end the process if there are none."""
    points = yaml.safe_load(POINTS.read_text())
    if name not in points:
        sys.exit(f"error: POINT = {name!r}: expected one of {', '.join(points)}")
    return points[name]


if __name__ == "__main__":
    values = settings("".join(sys.argv[1:]))
    options = [f"-S{key}={json.dumps(value)}" for key, value in values.items()]
    # As far as evaluate, because DVC loses the metrics of an experiment that fails.
    command = [sys.executable, "-m", "dvc", "exp", "run", "evaluate", *options]
    sys.exit(subprocess.run(command, check=False).returncode)
