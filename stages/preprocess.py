"""Stage 3: read the images and divide them into train, dev and test."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.data import archive, folders, parts, photos
from stages.data.dataset import PARTS
from stages.errors import PipelineError
from stages.files import digest, replacing, write_csv, write_rows
from stages.params import Params
from stages.paths import ABOUT, ARCHIVE, CIFAR10, IMAGES, LABELS, PHOTOS, SKIPPED

# The contents of labels.npz and about.json; files that are left out, each with the reason.
Described = tuple[dict[str, Any], dict[str, Any], dict[str, str]]
MAX_UNREADABLE = 0.1  # fraction of all files; with more, it is probably the wrong folder


def main(params: Params) -> None:
    """Write data/processed: what stages/data/dataset.py describes, and skipped.csv.

    The latter has a row for each file that was left out: its name and the reason.
    """
    IMAGES.parent.mkdir(parents=True, exist_ok=True)
    read = cifar10 if params.data.name == CIFAR10 else own_photos
    labels, about, left_out = read(params)
    with replacing(LABELS) as partial:
        np.savez(partial, **labels)
    with replacing(ABOUT) as partial:
        partial.write_text(json.dumps(about, indent=1), encoding="utf-8")
    write_csv(SKIPPED, [("file", "reason"), *sorted(left_out.items())])
    counts = ", ".join(f"{len(labels[part])} {part}" for part in PARTS)
    print(f"{IMAGES}: {len(labels['class_names'])} classes, {counts} images", flush=True)
    if left_out:
        print(f"{len(left_out)} files were left out, {SKIPPED} has the reasons", flush=True)


def cifar10(params: Params) -> Described:
    """Write CIFAR-10's images in the archive's order, training images first; return the rest."""
    data = archive.read(ARCHIVE)
    split = params.preprocess
    train, dev = stratified_split(data.y_train, split.dev_fraction, split.seed)
    with replacing(IMAGES) as partial:
        write_rows(partial, "|u1", (32, 32, 3), itertools.chain(data.x_train, data.x_test))
    labels = {
        "labels": np.concatenate([data.y_train, data.y_test]).astype(np.uint16),
        "train": train,
        "dev": dev,
        "test": np.arange(len(data.y_train), len(data.names)),
        "class_names": np.array(data.class_names),
        "image_shape": np.array((32, 32, 3)),
        "aspect": "crop",
    }
    about = {"title": "CIFAR-10", "notes": archive.NOTES, "source": digest(ARCHIVE)}
    return labels, about | {"files": data.names}, {}


def stratified_split(
    labels: archive.Labels, dev_fraction: float, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Divide the indices of labels (n,) into train and dev, each ascending, stratified by class.

    Of each class `dev_fraction`, in (0, 1), goes to dev, rounded to whole images.

    Raises:
        PipelineError: a class would be empty in one of the two.
    """
    rng = np.random.default_rng(seed)
    is_dev = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * dev_fraction)
        if not 0 < count < len(members):
            raise PipelineError(
                f"preprocess.dev_fraction = {dev_fraction}: leaves {count} of the {len(members)} "
                f"images of class {label} for dev, expected at least 1 in dev and 1 in train"
            )
        is_dev[rng.choice(members, count, replace=False)] = True
    return np.flatnonzero(~is_dev), np.flatnonzero(is_dev)


def state(place: Path) -> list[tuple[Path, int, int]]:
    """Return the files of a folder, or a file, each with its size and time of modification."""
    found = ((path, path.lstat()) for path in photos.walk(place))
    return [(path, status.st_size, status.st_mtime_ns) for path, status in found]


def own_photos(params: Params) -> Described:
    """Write the images of data/images/<data.name> in the order of their names; return the rest."""
    place, side, aspect = PHOTOS / params.data.name, params.data.image_size, params.data.aspect
    found: list[folders.Photo] = []

    def images() -> Iterator[npt.NDArray[np.uint8]]:
        for photo, image in folders.decoded(listed, read, side, aspect):
            if isinstance(image, str):
                left_out[photo.name] = image
            else:
                found.append(photo)
                yield image

    try:
        before = state(place)
        with folders.opened(place) as (names, read), replacing(IMAGES) as partial:
            listed, classes, loose = folders.layout(names)
            left_out = dict.fromkeys(loose, "in no class folder")
            write_rows(partial, "|u1", (side, side, 3), images())
            if len(left_out) > MAX_UNREADABLE * (total := len(found) + len(left_out)):
                name, why = next(iter(left_out.items()))
                raise PipelineError(
                    f"{len(left_out)} of {total} files cannot be used, expected at most a tenth: "
                    f"{photos.printable(name)}: {why}; move such files elsewhere"
                )
            if state(place) != before:  # DVC would record the new state, and not run this again
                raise PipelineError("changed while it was read; run `dvc repro` again")
            left_out |= parts.duplicates(found)
            kept = [photo for photo in found if photo.name not in left_out]
            part_of = parts.divide(kept, params.preprocess)
    except PipelineError as error:
        raise PipelineError(f"{place}: {error}; see docs/own-images.md") from error
    label_of = {label: i for i, label in enumerate(sorted({photo.label for photo in kept}))}
    for label in sorted(classes.difference(label_of)):
        print(f"warning: class '{label}' has no usable images and is left out", flush=True)
    used = [(photo.label, part_of[photo.name], photo.content) for photo in kept]
    parts_of_found = np.array([part_of.get(photo.name, "") for photo in found])
    labels = {
        "labels": np.array([label_of.get(photo.label, 0) for photo in found], np.uint16),
        **{part: np.flatnonzero(parts_of_found == part) for part in PARTS},
        "class_names": np.array(list(label_of)),
        "image_shape": np.array((side, side, 3)),
        "aspect": aspect,
    }
    about = {
        "title": f"the images in `{place}`",
        "notes": "- **License of the images:** not recorded.\n",
        "source": hashlib.sha256(repr(used).encode()).hexdigest(),
        "files": [photo.name for photo in found],
    }
    return labels, about, left_out
