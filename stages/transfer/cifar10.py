"""The CIFAR-10 archive, "python version": read without trusting it, checked, split.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. Six pickled batches, written by Python 2: a
dictionary with `data`, uint8 (n, 3072), channel after channel, and `labels`, a list of n integers;
and `batches.meta` with `label_names`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.transfer import pickles, tar_members
from stages.transfer.errors import PipelineError

TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
META = "batches.meta"
IMAGE_SHAPE = (32, 32, 3)
CLASSES = 10
# A batch of 10,000 images takes 31 MB; a member far above that is no CIFAR-10.
MEMBER_LIMIT = 64 * 2**20
NAME_LIMIT = 100  # bytes

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


class Cifar10(NamedTuple):
    """The archive's content.

    Attributes:
        x_train: uint8 (n, 32, 32, 3) in [0, 255], batches 1 to 5 in the archive's order.
        y_train: uint8 (n,) in [0, 9].
        x_test: uint8 (m, 32, 32, 3), in the archive's order.
        y_test: uint8 (m,).
        class_names: ten names, in the order of the labels.
    """

    x_train: Images
    y_train: Labels
    x_test: Images
    y_test: Labels
    class_names: list[str]


def read(archive: Path) -> Cifar10:
    """Read and check the archive, in memory; nothing is extracted.

    Args:
        archive: a tar file, gzipped or not, whose digest has been checked.

    Returns:
        Images, labels and class names.

    Raises:
        PipelineError: not a whole tar file or too large a one, a member is missing or twice there,
            a pickle holds anything but plain values and arrays, or an array or label is not
            CIFAR-10's.
    """
    if not archive.exists():
        raise PipelineError(f"{archive} is missing; run `dvc repro`")
    wanted = {*TRAIN_BATCHES, TEST_BATCH, META}
    batches: dict[str, tuple[Images, Labels]] = {}
    class_names: list[str] = []
    for name, pickled in tar_members.read(archive, wanted, MEMBER_LIMIT):
        where = f"{archive}: {name}"
        content = _unpickle(pickled, where)
        if name == META:
            class_names = _class_names(content, where)
        else:
            batches[name] = _batch(content, where)
    found = batches.keys() | ({META} if class_names else set())
    if missing := sorted(wanted - found):
        raise PipelineError(f"{archive}: lacks {', '.join(missing)}; expected all of CIFAR-10")

    x_test, y_test = batches[TEST_BATCH]
    return Cifar10(
        np.concatenate([batches[name][0] for name in TRAIN_BATCHES]),
        np.concatenate([batches[name][1] for name in TRAIN_BATCHES]),
        x_test,
        y_test,
        class_names,
    )


def _unpickle(content: bytes, where: str) -> dict[Any, Any]:
    try:
        value = pickles.loads(content)
    except PipelineError as error:
        raise PipelineError(f"{where}: expected a pickle of arrays only: {error}") from error
    if not isinstance(value, dict):
        raise PipelineError(f"{where}: holds a {type(value).__name__}, expected a dictionary")
    return value


def _batch(content: dict[bytes, Any], where: str) -> tuple[Images, Labels]:
    data, labels = content.get(b"data"), content.get(b"labels")
    if not isinstance(data, np.ndarray) or data.shape[1:] != (3072,):
        got = f"uint8 {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise PipelineError(f"{where}: data is {got}, expected uint8 (n, 3072)")
    if not isinstance(labels, list) or len(labels) != len(data) or not labels:
        got = f"{len(labels)} labels" if isinstance(labels, list) else type(labels).__name__
        raise PipelineError(f"{where}: {got} for {len(data)} images, expected a list of as many")
    for label in labels:
        if type(label) is not int or not 0 <= label < CLASSES:
            # Shown only if that is short: nested lists and long integers may not be.
            short = type(label) in (bool, float) or (type(label) is int and abs(label) < 2**63)
            got = label if short else type(label).__name__
            raise PipelineError(f"{where}: label {got}, expected an integer from 0 to 9")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.array(labels, np.uint8)


def _class_names(content: dict[bytes, Any], where: str) -> list[str]:
    names = content.get(b"label_names")
    if (
        not isinstance(names, list)
        or not all(isinstance(name, bytes) and len(name) <= NAME_LIMIT for name in names)
        or len(set(names)) != CLASSES
        or len(names) != CLASSES
    ):
        raise PipelineError(
            f"{where}: label_names: expected ten names of at most {NAME_LIMIT} bytes, none twice"
        )
    return [name.decode("utf-8", "replace") for name in names]


def stratified_split(
    labels: Labels, dev_fraction: float, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Divide indices into train and dev, each class in the same proportion.

    Args:
        labels: (n,) class of each image.
        dev_fraction: share of each class that goes to dev, in (0, 1); rounded to whole images.
        seed: of the random choice.

    Returns:
        Indices of train and of dev, each ascending; together they are 0 to n-1.

    Raises:
        PipelineError: a class would be empty in one of the two.
    """
    rng = np.random.default_rng(seed)
    dev = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * dev_fraction)
        if not 0 < count < len(members):
            raise PipelineError(
                f"preprocess.dev_fraction = {dev_fraction}: leaves {count} of the {len(members)} "
                f"images of class {label} for dev, expected at least 1 in dev and 1 in train"
            )
        dev[rng.choice(members, count, replace=False)] = True
    return np.flatnonzero(~dev), np.flatnonzero(dev)
