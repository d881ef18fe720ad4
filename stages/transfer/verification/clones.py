"""Clones of the last commit, each with its own cache, in which the pipeline runs from nothing."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.transfer import isolation
from stages.transfer.bench import processes, scratch
from stages.transfer.demo import COPIED, PROJECT
from stages.transfer.environment import RECORD, read
from stages.transfer.errors import PipelineError
from stages.transfer.params import PARAMS, load
from stages.transfer.paths import METRICS
from stages.transfer.places import SHARED_MIRROR
from stages.transfer.reproduction import DVC
from stages.transfer.verification.comparison import COMPARED, Result, result

LOCK = Path("dvc.lock")
OF_A_RUN = (LOCK, METRICS, RECORD)  # what a run writes and Git keeps
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set by hooks
THREADS = "TF_NUM_INTRAOP_THREADS"  # OMP_NUM_THREADS has no effect on the published TensorFlow


def commit() -> str:
    """Return the short name of the last commit, if nothing that makes a result differs from it.

    Raises:
        PipelineError: something does, or this is no Git repository.
    """
    changed = _git("status", "--porcelain", "--", *COPIED, str(PARAMS)).splitlines()
    if changed:
        names = ", ".join(line[3:] for line in changed[:3]) + (", ..." if changed[3:] else "")
        raise PipelineError(
            f"{names}: not committed, and clones would not have it; commit or `git stash` it "
            "(settings can be tried with -S)"
        )
    return _git("rev-parse", "--short", "HEAD").strip()


def clone(root: Path, settings: Sequence[str], option: str = "-S") -> Path:
    """Clone the last commit into `root`, with other settings.

    The clone finds archive and weights where this project does, and in this project's own outputs.

    Args:
        root: an empty folder.
        settings: "section.key=value" each, as `dvc exp run -S` takes them.
        option: of the command line, that a fault in them is said of.

    Returns:
        The pipeline's folder in the clone.

    Raises:
        PipelineError: a setting is malformed or not allowed, or Git fails.
    """
    repository, inside = _git("rev-parse", "--show-toplevel", "--show-prefix").split("\n")[:2]
    _git("clone", "--quiet", repository, str(root / "project"))
    project = root / "project" / inside
    try:
        load(project / PARAMS)
    except PipelineError as error:
        raise PipelineError(_short(error, project)) from None
    isolation.own_cache(project)
    scratch.configure(project, project / SHARED_MIRROR, settings, option)
    return project


def committed(project: Path) -> Result:
    """Return what is recorded of the run that is committed.

    Raises:
        PipelineError: it is missing or malformed.
    """
    return _read("dvc.lock", project)


def run(name: str, root: Path, project: Path, threads: int | None = None) -> tuple[Result, float]:
    """Run the pipeline in a clone from nothing, and show what it prints.

    Args:
        name: what the result is called.
        root: the folder that the clone is in.
        project: from `clone`.
        threads: that TensorFlow computes with; None leaves that to it.

    Returns:
        What the run has left, and its wall time in seconds.

    Raises:
        PipelineError: the pipeline failed; the message says why.
    """
    for path in OF_A_RUN:  # so that none of it can be taken for this run's
        (project / path).unlink(missing_ok=True)
    environment = scratch.environment(root)
    for variable in GIT_PLACES:
        environment.pop(variable, None)
    if threads:
        environment[THREADS] = str(threads)
    done = processes.run([*DVC, "repro", "evaluate"], project, environment)
    if missing := [stage for stage in COMPARED if stage not in done.stages]:
        raise PipelineError(f"{name}: DVC did not run {', '.join(missing)}, expected all stages to")
    return _read(name, project), done.seconds


def remove_outputs(project: Path) -> None:
    """Remove the data of a clone and its cache, which are large."""
    for folder in ("data", ".dvc/cache"):
        shutil.rmtree(project / folder, ignore_errors=True)


def _read(name: str, project: Path) -> Result:
    contents: list[Any] = []
    for path, parse in ((LOCK, yaml.safe_load), (METRICS, json.loads)):
        try:
            contents.append(parse((project / path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise PipelineError(
                f"{path}: not committed; run `make reproduce`, then commit"
            ) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise PipelineError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    try:
        environments = read(project / RECORD)
    except PipelineError as error:
        raise PipelineError(_short(error, project)) from None
    lock, metrics = contents
    return result(name, lock, environments, metrics)


def _short(error: PipelineError, project: Path) -> str:
    """Return a message about a file in a clone as one about the same file here."""
    return str(error).replace(f"{project}{os.sep}", "")


def _git(*arguments: str) -> str:
    """Return what a Git command prints, run in this project's folder."""
    variables = {k: v for k, v in os.environ.items() if k not in GIT_PLACES}
    command = ["git", *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=PROJECT, env=variables, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise PipelineError("git is not installed; `make verify` compares clones") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise PipelineError(f"git {arguments[0]} in {PROJECT}: {said}; `make verify` needs a clone")
    return done.stdout
