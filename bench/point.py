"""`make point POINT=fastest`: run settings that points.yaml names, as an experiment of DVC's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from dvc.utils.serialize import parse_yaml

from stages.params import PARAMS

POINTS = Path(__file__).with_name("points.yaml")


def settings(name: str) -> dict[str, Any]:
    """Return named settings, value by "section.key"; end the process if there are none.

    They are complete but for digests, because `dvc exp run -S` leaves params.yaml changed: none may
    inherit a value of the run before it.
    """
    points = yaml.safe_load(POINTS.read_text())
    if name not in points:
        sys.exit(f"error: POINT = {name!r}: expected one of {', '.join(points)}")
    show = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, text=True)
    if show.returncode:
        sys.exit(f"error: {PARAMS} as committed is needed: expected a Git repository that has it")
    committed = {
        f"{section}.{key}": value
        for section, values in parse_yaml(show.stdout, PARAMS).items()
        for key, value in values.items()
        if key != "sha256"
    }
    return committed | points[name]


if __name__ == "__main__":
    values = settings("".join(sys.argv[1:]))
    options = [f"-S{key}={json.dumps(value)}" for key, value in values.items()]
    # As far as evaluate, because DVC loses the metrics of an experiment that fails.
    command = [sys.executable, "-m", "dvc", "exp", "run", "evaluate", *options]
    sys.exit(subprocess.run(command, check=False).returncode)
