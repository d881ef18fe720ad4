"""A copy of this project to be measured: own cache, own settings, the same archive and weights."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stages.transfer import isolation
from stages.transfer.demo import PROJECT, copy_files
from stages.transfer.errors import PipelineError
from stages.transfer.files import digest, replacing
from stages.transfer.launcher import UNWANTED
from stages.transfer.params import PARAMS, load, parse
from stages.transfer.paths import ARCHIVE, WEIGHTS
from stages.transfer.places import SHARED_MIRROR


def copy_project(root: Path, settings: Sequence[str]) -> Path:
    """Copy the pipeline into `root`, with this project's params.yaml and other settings.

    The copy finds archive and weights where this project does, and in this project's own outputs.

    Args:
        root: an empty folder.
        settings: "section.key=value" each, as `dvc exp run -S` takes them.

    Returns:
        The copy's folder.

    Raises:
        PipelineError: a setting is malformed or not allowed.
    """
    project, mirror = root / "project", root / SHARED_MIRROR.relative_to("..")
    copy_files(project)
    load(PROJECT / PARAMS)
    shutil.copyfile(PROJECT / PARAMS, project / PARAMS)
    configure(project, mirror, settings)
    return project


def configure(project: Path, mirror: Path, settings: Sequence[str], option: str = "-S") -> None:
    """Change settings of a copy of this project, and let it find archive and weights.

    Args:
        project: the copy's folder.
        mirror: a folder to make, where the copy looks.
        settings: "section.key=value" each.
        option: of the command line, that a fault in them is said of.

    Raises:
        PipelineError: a setting is malformed or not allowed.
    """
    content = parse((project / PARAMS).read_text())
    for setting in settings:
        key, equals, value = setting.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise PipelineError(f"{option} {setting}: expected section.key=value")
        try:
            content.setdefault(section, {})[name] = parse(value)
        except ValueError as error:
            raise PipelineError(f"{option} {setting}: expected YAML after the =") from error
    (project / PARAMS).write_text(yaml.safe_dump(content, sort_keys=False))
    try:
        load(project / PARAMS)
    except PipelineError as error:
        raise PipelineError(str(error).replace(str(project / PARAMS), option)) from None
    offer_archive(mirror, content["download"]["sha256"])
    content["backbone"]["weights"] = weights_for(content["backbone"])
    (project / PARAMS).write_text(yaml.safe_dump(content, sort_keys=False))


def offer_archive(mirror: Path, accepted: Sequence[str]) -> None:
    """Link into a mirror folder what this project's has, and the archive that this project has.

    Args:
        mirror: a folder to make.
        accepted: SHA-256 of the archives that are accepted.
    """
    mirror.mkdir(parents=True)
    shared = PROJECT / SHARED_MIRROR
    for file in shared.iterdir() if shared.is_dir() else ():
        (mirror / file.name).symlink_to(file.resolve())
    archive = PROJECT / ARCHIVE
    if archive.exists() and digest(archive) in accepted:
        (mirror / ARCHIVE.name).unlink(missing_ok=True)
        (mirror / ARCHIVE.name).symlink_to(archive)


def weights_for(own: Mapping[str, Any]) -> str:
    """Return `backbone.weights` as a copy of this project needs it.

    Args:
        own: the section `backbone` of its params.yaml.

    Returns:
        The path of this project's own output, if it has been made with the same settings; else the
        same setting, a path as seen from anywhere.
    """
    weights = str(own["weights"])
    if weights == "random":
        return weights
    try:
        made = yaml.safe_load((PROJECT / "dvc.lock").read_text())["stages"]["backbone"]
        of = made["params"][str(PARAMS)]
        same = all(of[f"backbone.{key}"] == own[key] for key in ("name", "image_size", "weights"))
        if same and made["outs"][0]["md5"] == digest(PROJECT / WEIGHTS, "md5"):
            return str(PROJECT / WEIGHTS)
    except (OSError, yaml.YAMLError, ValueError, LookupError, TypeError):
        pass  # nothing has been made, or nobody can tell of what
    return weights if weights == "imagenet" else str(PROJECT / Path(weights).expanduser())


def environment(root: Path) -> dict[str, str]:
    """Return the environment of what is measured, which has nothing of the user's own."""
    values = os.environ | {
        **isolation.variables(root),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    for name in UNWANTED:
        values.pop(name, None)
    if Path(values.get("MIRROR", "")).is_dir() and values.get("MIRROR"):
        values["MIRROR"] = str(Path(values["MIRROR"]).resolve())  # seen from here
    return values


def cut_down(path: Path, images: int) -> None:
    """Leave the first `images` images of each part of the dataset."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    with replacing(path) as partial:
        np.savez(
            partial,
            **{name: a if name == "class_names" else a[:images] for name, a in arrays.items()},
        )
