"""Stage 5: train a new head on the backbone's features, everything below it frozen."""

from typing import TYPE_CHECKING

import keras
import numpy as np

from stages.transfer import (
    activations,
    backbones,
    classifier,
    inference,
    parts,
    recipe,
    storage,
    training,
)
from stages.transfer.dataset import arrays
from stages.transfer.determinism import make_deterministic
from stages.transfer.folding import folded
from stages.transfer.paths import (
    DATASET,
    FEATURES,
    HEAD,
    HEAD_CURVE,
    WEIGHTS,
    dev_features,
    train_view,
)

if TYPE_CHECKING:
    from stages.transfer.params import Params


def main(params: "Params") -> None:
    """Write data/head/head.npz (kernel and bias) and its learning curve."""
    storage.link_to_cache(FEATURES)
    own = params.train_head
    make_deterministic(own.seed)
    name, image_size = params.backbone.name, params.backbone.image_size
    net = backbones.build(name, image_size, WEIGHTS)
    suffix = parts.trained_part(net, name, image_size, params.backbone.cut)
    frozen = folded(classifier.pooled_features(suffix))

    y_train, y_dev, names = arrays(DATASET, "y_train", "y_dev", "class_names")
    classes = len(names)
    # The frozen suffix's output is fixed too: once for each image, and the head trains in seconds.
    count = min(own.images, len(y_train))
    chosen = np.random.default_rng(own.seed).choice(len(y_train), count, replace=False)
    chosen.sort()  # read in the order of the file
    x, x_dev = (
        inference.predict(frozen, stored, own.batch_size)
        for stored in (activations.load(train_view(0))[chosen], activations.load(dev_features()))
    )
    one_hot = np.eye(classes, dtype=np.float32)

    model = keras.Sequential([keras.Input(x.shape[1:]), recipe.head(classes)])
    steps = own.epochs * -(-len(x) // own.batch_size)
    model.compile(
        recipe.optimizer(own.learning_rate, steps),
        recipe.loss(),
        metrics=["accuracy"],
        jit_compile=False,
    )
    result = training.fit(
        model,
        x,
        one_hot[y_train[chosen]],
        dev=(x_dev, one_hot[y_dev]),
        epochs=own.epochs,
        batch_size=own.batch_size,
        key="train_head",
    )
    classifier.save_head(model.get_layer("logits"), result.dev_accuracy, HEAD)
    training.write_curve(result.curve, HEAD_CURVE)
    print(f"head alone: accuracy on dev {result.dev_accuracy:.4f}")
