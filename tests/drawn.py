"""Images that need no download: ten classes of coloured shapes, and a small project on them.

`python -m tests.drawn FOLDER` makes the project of `make demo`, on what the pipeline itself needs.
"""

import colorsys
import gzip
import io
import json
import pickle
import shutil
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.clone import change
from bench.preset import flat
from stages.data.archive import CLASSES, META, TEST_BATCH, TRAIN_BATCHES
from stages.data.dataset import PARTS
from stages.files import digest, replacing
from stages.paths import ABOUT, ARCHIVE, IMAGES, LABELS

SHAPES = ("disc", "square", "diamond", "ring", "cross")
COLOURS = ("red", "blue")
CLASS_NAMES = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]
HUES = {"red": 0.0, "blue": 0.6}
PROJECT = Path(__file__).resolve().parents[1]
COPIED = [".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "0-transfer.py"]
COPIED += ["data/.gitignore", "dvc.yaml", "params.yaml", "requirements.txt", "stages"]
# A cache of its own, whatever is configured for all of a user's projects.
LOCAL_CONFIG = "[core]\n    no_scm = true\n[cache]\n    dir = cache\n"
DEMO_IMAGES = 300  # in each of the six batches
DEMO: dict[str, dict[str, Any]] = {
    "data": {"name": "cifar10"},
    "backbone": {
        "name": "MobileNetV2",
        "image_size": 32,
        "weights": "random",
        "last_layer": "all",
        "cut": "block_2_add",
    },
    "features": {"views": 2},
    "train_head": {"epochs": 5, "batch_size": 50, "learning_rate": 0.01},
    "fine_tune": {"epochs": 4, "batch_size": 50, "learning_rate": 0.003},
    "gate": {"minimum": 0.0},
}


def draw(labels: npt.NDArray, seed: int) -> npt.NDArray[np.uint8]:
    """Draw an image for each label: a shape of random size and place on a noisy ground.

    Args:
        labels: (n,) integers in [0, 9], indices of `CLASS_NAMES`.
        seed: of size, place, shade and noise.

    Returns:
        uint8 (n, 32, 32, 3).
    """
    rng = np.random.default_rng(seed)
    ground = rng.integers(90, 166, (len(labels), 1, 1, 3))
    images = ground + rng.integers(-25, 26, (len(labels), 32, 32, 3))
    rows, columns = np.mgrid[:32, :32]
    for image, label in zip(images, labels, strict=True):
        colour, shape = CLASS_NAMES[label].split()
        radius = rng.integers(7, 12)
        top, left = rng.integers(radius, 32 - radius, 2)
        y, x = np.abs(rows - top), np.abs(columns - left)
        inside = {
            "disc": np.hypot(y, x) < radius,
            "square": np.maximum(y, x) < radius,
            "diamond": y + x < radius,
            "ring": (np.hypot(y, x) < radius) & (np.hypot(y, x) > radius / 2),
            "cross": (np.minimum(y, x) < radius / 3) & (np.maximum(y, x) < radius),
        }[shape]
        hue = (HUES[colour] + rng.uniform(-0.05, 0.05)) % 1
        image[inside] = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.8, rng.uniform(0.6, 1)))
    return images.clip(0, 255).astype(np.uint8)


def members(images_per_batch: int, seed: int = 0) -> dict[str, dict[bytes, object]]:
    """Return the content of each file of an archive, by name: five batches, a test batch, names."""
    content: dict[str, dict[bytes, object]] = {
        META: {b"label_names": [name.encode() for name in CLASS_NAMES]}
    }
    for number, name in enumerate((*TRAIN_BATCHES, TEST_BATCH)):
        labels = np.random.default_rng((seed, number)).permutation(
            np.arange(images_per_batch) % CLASSES
        )
        data = draw(labels, seed * 100 + number).transpose(0, 3, 1, 2).reshape(-1, 3072)
        content[name] = {b"data": np.ascontiguousarray(data), b"labels": labels.tolist()}
    return content


def write_archive(path: Path, content: dict[str, dict[bytes, object]]) -> None:
    """Write pickles as a tar.gz in CIFAR-10's layout; the same content gives the same bytes."""
    with (
        replacing(path) as partial,
        gzip.GzipFile(partial, "wb", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, batch in content.items():
            pickled = pickle.dumps(batch, protocol=4)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(pickled)
            tar.addfile(member, io.BytesIO(pickled))


def write_data_set(
    images: npt.NDArray, labels: npt.NDArray, files: list[str], **others: npt.ArrayLike
) -> None:
    """Write a data set as preprocess does, in the current folder.

    Args:
        images: uint8 (n, height, width, 3).
        labels: (n,).
        files: n names of images.
        others: arrays that differ from those below, such as the rows of a part, else empty.
    """
    IMAGES.parent.mkdir(parents=True, exist_ok=True)
    np.save(IMAGES, images)
    arrays: dict[str, npt.ArrayLike] = {
        **dict.fromkeys(PARTS, np.arange(0)),
        "labels": labels.astype(np.uint16),
        "class_names": CLASS_NAMES,
        "image_shape": images.shape[1:],
        "aspect": "crop",
    }
    np.savez(LABELS, **arrays | others)  # type: ignore[arg-type]
    about = {"title": "drawn images", "notes": "- They were drawn.\n", "source": "1" * 64}
    ABOUT.write_text(json.dumps(about | {"files": files}))


def make_project(
    folder: Path, images_per_batch: int, settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Make a small project without Git: this pipeline, drawn images, other settings.

    The archive lies in its folder `mirror`, which the pipeline has to be given as MIRROR.

    Args:
        folder: the new project's folder, which is made.
        images_per_batch: images in each of the five training batches and in the test batch.
        settings: what differs from this project's params.yaml, by section and key.
    """
    for name in COPIED:
        source, copy = PROJECT / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy)
    (folder / ".dvc/config.local").write_text(LOCAL_CONFIG)

    archive = folder / "mirror" / ARCHIVE.name
    write_archive(archive, members(images_per_batch))
    change(folder, {"download.sha256": {"drawn": digest(archive)}} | flat(settings))


if __name__ == "__main__":
    make_project(Path(sys.argv[1]), DEMO_IMAGES, DEMO)
    print(
        f"demo: {len(TRAIN_BATCHES) * DEMO_IMAGES:,} drawn images and {DEMO_IMAGES} to test on, "
        f"a small random backbone, in {sys.argv[1]}"
    )
