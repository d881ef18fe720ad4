"""The machinery of training: the loop, the choice of the best epoch, the learning curve."""

import csv
import sys
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from stages.transfer.errors import PipelineError
from stages.transfer.files import replacing

CURVE_COLUMNS = ("epoch", "accuracy", "loss", "dev_accuracy", "dev_loss")


class Fit(NamedTuple):
    """What training gave, the weights aside.

    Attributes:
        curve: a row for each epoch, the keys of `CURVE_COLUMNS`.
        dev_accuracy: accuracy on dev of the weights that are kept, in [0, 1].
    """

    curve: list[dict[str, float]]
    dev_accuracy: float


def fit(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    dev: Any,
    epochs: int,
    batch_size: int | None = None,
    key: str,
) -> Fit:
    """Train a compiled model and leave it with the weights of the epoch that is best on dev.

    Args:
        model: compiled with the metric "accuracy".
        x: arrays, or a dataset that gives batches with labels.
        y: one-hot labels if `x` is an array.
        dev: (x, y) or a dataset, for the choice among epochs.
        epochs: how many; 0 trains nothing and only measures.
        batch_size: images in a batch, None if `x` is a dataset.
        key: section of params.yaml that an error points at.

    Raises:
        PipelineError: the loss is not a finite number.
    """
    if not epochs:
        dev_x, dev_y = dev if isinstance(dev, tuple) else (dev, None)
        return Fit([], model.evaluate(dev_x, dev_y, verbose=0, return_dict=True)["accuracy"])
    best = keras.callbacks.EarlyStopping(
        monitor="val_accuracy", mode="max", patience=epochs, restore_best_weights=True
    )
    history = model.fit(
        x,
        y,
        validation_data=dev,
        epochs=epochs,
        batch_size=batch_size,
        callbacks=[best, keras.callbacks.TerminateOnNaN()],
        shuffle=y is not None,  # a dataset brings its own order
        verbose=1 if sys.stdout.isatty() else 2,
    ).history
    for loss in ("loss", "val_loss"):
        if not np.isfinite(history[loss]).all():
            raise PipelineError(
                f"{key}: the {loss} became {history[loss][-1]} in epoch {len(history[loss])}; "
                f"lower {key}.learning_rate"
            )
    names = {"accuracy": "accuracy", "loss": "loss"}
    names |= {f"dev_{name}": f"val_{name}" for name in names}
    curve = [
        {"epoch": i + 1, **{column: history[name][i] for column, name in names.items()}}
        for i in range(epochs)
    ]
    return Fit(curve, max(history["val_accuracy"]))


def write_curve(curve: list[dict[str, float]], path: Path) -> None:
    """Write a learning curve as CSV, for `dvc plots`."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, CURVE_COLUMNS)
        writer.writeheader()
        writer.writerows(curve)
