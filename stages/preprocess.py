"""Stage 3: read the archive and divide its training images into train and dev."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stages.data import archive
from stages.errors import PipelineError
from stages.files import replacing
from stages.paths import ARCHIVE, DATASET, DEV_INDEX

if TYPE_CHECKING:
    from stages.params import Params


def main(params: "Params") -> None:
    """Write data/processed/cifar10.npz and dev_index.npy.

    The first has x_train, x_dev, x_test: uint8 (n, height, width, 3); y_train, y_dev, y_test: uint8
    (n,); class_names: str (classes,). Train and dev divide the archive's training images; test is
    in the archive's order. The second, int64 (n,), is the index of dev in the training images.
    """
    data = archive.read(ARCHIVE)
    train, dev = stratified_split(
        data.y_train, params.preprocess.dev_fraction, params.preprocess.seed
    )
    with replacing(DATASET) as partial:
        np.savez(
            partial,
            x_train=data.x_train[train],
            y_train=data.y_train[train],
            x_dev=data.x_train[dev],
            y_dev=data.y_train[dev],
            x_test=data.x_test,
            y_test=data.y_test,
            class_names=np.array(data.class_names),
        )
    with replacing(DEV_INDEX) as partial:
        np.save(partial, dev)
    print(f"{DATASET}: {len(train)} train, {len(dev)} dev, {len(data.y_test)} test images")


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
