"""Images that need no download: ten classes of coloured shapes, in CIFAR-10's archive layout."""

import colorsys
import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.transfer.cifar10 import CLASSES, META, TEST_BATCH, TRAIN_BATCHES
from stages.transfer.files import replacing

SHAPES = ("disc", "square", "diamond", "ring", "cross")
COLOURS = ("red", "blue")
CLASS_NAMES = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]
HUES = {"red": 0.0, "blue": 0.6}


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
            # Protocol 4 has a byte string of its own; 2 would call a function to make one.
            pickled = pickle.dumps(batch, protocol=4)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(pickled)
            tar.addfile(member, io.BytesIO(pickled))
