"""Stage 5: train a new head on the backbone's features, everything below it frozen."""

import keras
import numpy as np

from stages.data.dataset import DataSet
from stages.files import mapped
from stages.nets.backbone import Backbone
from stages.params import Params
from stages.paths import HEAD, HEAD_CURVE, WEIGHTS, dev_features, train_view
from stages.runtime import predict, set_up
from stages.training import cpu, fit, recipe
from stages.training.batches import Batches
from stages.training.head import new_head, save_head

PART = 5_120  # images whose activations are in memory at a time


def main(params: Params) -> None:
    """Write data/head/head.npz (kernel and bias) and its learning curve."""
    settings = params.train_head
    set_up(settings.seed)
    cpu.set_up()
    data = DataSet()
    y_train, y_dev = data.labels("train"), data.labels("dev")
    frozen = Backbone(params.backbone, data.image_shape, WEIGHTS).frozen_suffix()
    # The frozen suffix, too, runs only once per image.
    count = min(settings.images, len(y_train))
    chosen = np.random.default_rng(settings.seed).choice(len(y_train), count, replace=False)
    chosen.sort()  # read in the order of the file
    view = mapped(train_view(0))
    parts = np.split(chosen, range(PART, count, PART))
    size, classes = settings.batch_size, len(data.class_names)
    x = np.concatenate([predict(frozen, view[part], size) for part in parts])
    x_dev = predict(frozen, mapped(dev_features()), size)
    train = Batches([x], y_train[chosen], classes, size, settings.seed)

    head = new_head(classes)
    model = keras.Sequential([keras.Input(x.shape[1:]), head])
    model.compile(
        recipe.optimizer(settings.learning_rate, settings.epochs * len(train)),
        recipe.loss(),
        metrics=["accuracy"],
    )
    dev_accuracy = fit.fit(
        model,
        train,
        Batches([x_dev], y_dev, classes, size),
        epochs=settings.epochs,
        curve=HEAD_CURVE,
        key="train_head",
    )
    save_head(head, HEAD)
    print(f"head alone: dev accuracy {dev_accuracy:.4f}")
