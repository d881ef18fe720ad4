"""`make verify`: do two runs with empty caches produce identical outputs?

Compares their dvc.lock files, which have the digest of every output; the runs are of two clones of
the last commit, one after the other. Differences from the committed dvc.lock are only reported:
another processor rounds differently. `make verify PRESET=fastest` runs a preset and skips this
comparison.
"""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

from bench.clone import clone
from bench.preset import settings
from stages.paths import ENVIRONMENT

LOCK = "dvc.lock"


def main(preset: str) -> None:
    """Run one commit twice, whoever commits meanwhile; end the process if the two differ."""
    values = settings(preset or "default")
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    committed, there = (
        subprocess.check_output(["git", "show", f"{commit}:./{path}"], text=True)
        for path in (LOCK, ENVIRONMENT)
    )
    (first, here), (second, _) = run(values, commit), run(values, commit)
    if not preset:
        changed = differing(first, committed) or "nothing"
        print(f"verify: differs from the committed dvc.lock: {changed}")
        print(f"verify: the environment here: {here}verify: as committed: {there}", end="")
    check(first, second)


def run(values: Mapping[str, Any], commit: str) -> tuple[str, str]:
    """Run the pipeline, with some values in params.yaml; return its dvc.lock and environment."""
    with clone(values, commit) as project:
        (project.folder / LOCK).unlink()  # all entries in the end are of this run
        project.run("stages", "check")
        project.run("dvc", "repro")
        return (project.folder / LOCK).read_text(), (project.folder / ENVIRONMENT).read_text()


def check(first: str, second: str) -> None:
    """Say that two dvc.lock are the same; end the process if they are not."""
    if first != second:
        sys.exit(f"error: verify: FAILED, two runs differ: {differing(first, second)}")
    print("verify: passed, both runs produced the same dvc.lock")


def differing(first: str, second: str) -> str:
    """Return the outputs whose digests two dvc.lock do not share."""
    return ", ".join(sorted({path for path, _ in digests(first) ^ digests(second)}))


def digests(lock: str) -> set[tuple[str, str]]:
    """Return each output in the text of a dvc.lock with its digest."""
    stages = YAML(typ="safe").load(lock)["stages"].values()
    return {(out["path"], out["md5"]) for stage in stages for out in stage.get("outs", [])}


if __name__ == "__main__":
    main("".join(sys.argv[1:]))
