"""A copy of this project to be measured: own cache, own settings, the same archive and weights."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stages.transfer.applications import APPLICATIONS
from stages.transfer.demo import PROJECT, copy_files
from stages.transfer.errors import PipelineError
from stages.transfer.files import digest, replacing
from stages.transfer.params import PARAMS, load
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


def configure(project: Path, mirror: Path, settings: Sequence[str]) -> None:
    """Change settings of a copy of this project, and let it find archive and weights.

    Args:
        project: the copy's folder.
        mirror: a folder to make, where the copy looks.
        settings: "section.key=value" each.

    Raises:
        PipelineError: a setting is malformed or not allowed.
    """
    content = yaml.safe_load((project / PARAMS).read_text())
    for setting in settings:
        key, equals, value = setting.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and name):
            raise PipelineError(f"-S {setting}: expected section.key=value")
        try:
            content.setdefault(section, {})[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise PipelineError(f"-S {setting}: expected YAML after the =") from error
    (project / PARAMS).write_text(yaml.safe_dump(content, sort_keys=False))
    try:
        load(project / PARAMS)
    except PipelineError as error:
        raise PipelineError(str(error).replace(str(project / PARAMS), "-S")) from None
    offer_files(mirror, content)
    (project / PARAMS).write_text(yaml.safe_dump(content, sort_keys=False))


def offer_files(mirror: Path, content: dict[str, Any]) -> None:
    """Link into a mirror folder what this project's has, and this project's own outputs.

    Args:
        mirror: a folder to make.
        content: params.yaml as read; the digest of the weights that are offered is added to it.
    """
    mirror.mkdir(parents=True)
    shared = PROJECT / SHARED_MIRROR
    for file in shared.iterdir() if shared.is_dir() else ():
        (mirror / file.name).symlink_to(file.resolve())
    archive = PROJECT / ARCHIVE
    if archive.exists() and digest(archive) in content["download"]["sha256"]:
        (mirror / ARCHIVE.name).unlink(missing_ok=True)
        (mirror / ARCHIVE.name).symlink_to(archive)
    weights, lock = PROJECT / WEIGHTS, PROJECT / "dvc.lock"
    if not (weights.exists() and lock.exists()):
        return
    made = yaml.safe_load(lock.read_text())["stages"].get("backbone", {})
    if made.get("outs", [{}])[0].get("md5") != digest(weights, "md5"):
        return
    own = content["backbone"]
    of = made["params"][str(PARAMS)]
    if all(of.get(f"backbone.{k}") == own.get(k) for k in ("name", "image_size", "weights")):
        link = mirror / f"{APPLICATIONS[own['name']].module}_notop.weights.h5"
        if not link.exists():
            link.symlink_to(weights)
            own["sha256"].append(digest(weights))


def environment(root: Path) -> dict[str, str]:
    """Return the environment of what is measured: DVC's own records go to `root` too.

    Settings of the user's own would bring their cache with them.
    """
    places = ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")
    values = os.environ | {
        **{f"DVC_{place}_DIR": str(root / "dvc") for place in places},
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    values.pop("TF_USE_LEGACY_KERAS", None)
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
