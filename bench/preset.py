"""`make preset PRESET=fastest`: run a preset of presets.yaml as a DVC experiment."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.params import PARAMS

PRESETS = Path(__file__).with_name("presets.yaml")
KEPT = {"gate"}  # sections that no preset changes, like all `sha256`


def settings(name: str) -> dict[str, Any]:
    """Return a preset, value by "section.key"; end the process if there is none of that name.

    It is complete but for what is the user's own, because `dvc exp run -S` leaves params.yaml
    changed: none may inherit a value of the run before it.
    """
    yaml = YAML(typ="safe")
    presets = yaml.load(PRESETS)
    if name not in presets:
        sys.exit(f"error: PRESET = {name!r}: expected one of {', '.join(presets)}")
    show = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, text=True)
    if show.returncode:
        sys.exit(f"error: {PARAMS} as committed is needed: expected a Git repository that has it")
    committed = {
        f"{section}.{key}": value
        for section, values in yaml.load(show.stdout).items()
        if section not in KEPT
        for key, value in values.items()
        if key != "sha256"
    }
    return committed | presets[name]


if __name__ == "__main__":
    values = settings("".join(sys.argv[1:]))
    options = [f"-S{key}={json.dumps(value)}" for key, value in values.items()]
    # As far as evaluate, because DVC loses the metrics of an experiment that fails.
    command = [sys.executable, "-m", "dvc", "exp", "run", "evaluate", *options]
    sys.exit(subprocess.run(command, check=False).returncode)
