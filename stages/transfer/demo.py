"""`make demo`: the whole pipeline in about a minute, in a temporary copy, on images it draws."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stages.transfer import isolation, synthetic
from stages.transfer.errors import PipelineError
from stages.transfer.files import digest
from stages.transfer.params import PARAMS, load, parse
from stages.transfer.paths import ARCHIVE
from stages.transfer.reproduction import run_dvc

PROJECT = Path(__file__).resolve().parents[2]
COPIED = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "0-transfer.py",
    "data/.gitignore",
    "dvc.yaml",
    "requirements.txt",
    "stages",
)
SETTINGS: dict[str, dict[str, Any]] = {
    "backbone": {
        "name": "MobileNetV2",
        "image_size": 32,
        "weights": "random",
        "cut": "block_2_add",
    },
    "features": {"views": 2},
    "train_head": {"epochs": 5, "batch_size": 50, "learning_rate": 0.01},
    "fine_tune": {"epochs": 4, "batch_size": 50, "learning_rate": 0.003},
    "gate": {"minimum": 0.0},
}


def copy_files(folder: Path) -> None:
    """Copy this pipeline's files, params.yaml excepted, into a new folder without Git."""
    folder.mkdir(parents=True)
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(
                source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
            )
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy2(source, folder / name)
    isolation.own_cache(folder, git=False)


def copy_project(
    folder: Path, mirror: Path, images_per_batch: int, settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Make a small project of its own: this pipeline's files, generated images, other settings.

    Args:
        folder: the new project's folder, which is made.
        mirror: a folder for the generated archive, to be given to the pipeline as MIRROR.
        images_per_batch: images in each of the five training batches and in the test batch.
        settings: what differs from this project's params.yaml, by section and key.
    """
    copy_files(folder)
    mirror.mkdir(parents=True, exist_ok=True)
    synthetic.write_archive(mirror / ARCHIVE.name, synthetic.members(images_per_batch))
    params = parse((PROJECT / PARAMS).read_text())
    params["download"]["sha256"] = [digest(mirror / ARCHIVE.name)]
    for section, values in settings.items():
        params[section] |= values
    (folder / PARAMS).write_text(yaml.safe_dump(params, sort_keys=False))


def main(_: list[str]) -> None:
    """Run the demo.

    Raises:
        PipelineError: the pipeline failed, and has said why.
    """
    load(PROJECT / PARAMS)
    with isolation.temporary_folder("cifar10-demo-") as temporary:
        folder, mirror = temporary / "project", temporary / "mirror"
        copy_project(folder, mirror, 300, SETTINGS)
        print(
            f"demo: 1,500 drawn images and 300 to test on, a small random backbone, in {folder}",
            flush=True,
        )
        environment = os.environ | isolation.variables(temporary) | {"MIRROR": str(mirror)}
        for command in (["repro"], ["metrics", "show", "--md"]):
            if run_dvc(command, folder, environment):
                raise PipelineError(f"demo: dvc {' '.join(command)} failed, as said above")
    print("demo: finished. Its accuracy means nothing: the images are drawn, the backbone random.")
