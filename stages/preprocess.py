"""Stage 3: read the archive and divide its training images into train and dev."""

from typing import TYPE_CHECKING

import numpy as np

from stages.transfer import cifar10
from stages.transfer.files import replacing
from stages.transfer.paths import ARCHIVE, DATASET

if TYPE_CHECKING:
    from stages.transfer.params import Params


def main(params: "Params") -> None:
    """Write data/processed/cifar10.npz.

    It holds x_train, x_dev, x_test: uint8 (n, 32, 32, 3); y_train, y_dev, y_test: uint8 (n,);
    class_names: str (10,). Train and dev divide the archive's training images; test is in the
    archive's order.
    """
    data = cifar10.read(ARCHIVE)
    train, dev = cifar10.stratified_split(
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
    print(f"{DATASET}: {len(train)} train, {len(dev)} dev, {len(data.y_test)} test images")
