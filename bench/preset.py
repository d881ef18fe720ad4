"""`make preset PRESET=fastest`: run a preset of presets.yaml as a DVC experiment.

`make preset PRESET=photos NAME=flowers` runs it on the images in data/images/flowers.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages import download, params
from stages.errors import PipelineError
from stages.params import PARAMS

PRESETS = Path(__file__).with_name("presets.yaml")
# Sections and settings that no preset changes, like all `sha256`: they are the data set's.
KEPT = {"gate", "preprocess", "data.name", "data.aspect", "features.flip"}


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
        sys.exit(f"error: there is no committed {PARAMS}; expected a Git repository with one")
    committed = flat(yaml.load(show.stdout))
    return {key: committed[key] for key in committed if not is_kept(key)} | presets[name]


def flat(params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return params.yaml, value by "section.key"."""
    return {f"{section}.{key}": v for section, of in params.items() for key, v in of.items()}


def is_kept(key: str) -> bool:
    """Return whether no preset changes a setting, "section.key"."""
    section, _, name = key.partition(".")
    return name == "sha256" or not KEPT.isdisjoint((section, key))


def check_images(name: str | None) -> None:
    """End the process unless the images of a name, or of data.name, are there and readable."""
    try:
        download.check(name or params.load().data.name)
    except (PipelineError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    values = settings(sys.argv[1] if sys.argv[1:] else "")
    if sys.argv[2:]:
        values["data.name"] = sys.argv[2]
    check_images(values.get("data.name"))
    options = [f"-S{k}={json.dumps(value, ensure_ascii=False)}" for k, value in values.items()]
    # Without the gate, because DVC loses the metrics of an experiment that fails.
    command = [sys.executable, "-m", "dvc", "exp", "run", "report", *options]
    sys.exit(subprocess.run(command, check=False).returncode)
