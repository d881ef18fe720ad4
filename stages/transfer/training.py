"""The machinery of training: the loop, the choice of the best epoch, the learning curve."""

import csv
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from stages.transfer.checkpoints import Checkpoints
from stages.transfer.errors import PipelineError
from stages.transfer.files import replacing

CURVE_COLUMNS = ("epoch", "accuracy", "loss", "dev_accuracy", "dev_loss")
KERAS_NAMES = ("accuracy", "loss", "val_accuracy", "val_loss")  # of the columns but the first


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
    checkpoints: Checkpoints | None = None,
) -> Fit:
    """Train a compiled model and leave it with the weights of the epoch that is best on dev.

    Args:
        model: compiled with the metric "accuracy".
        x: arrays, or `Batches`.
        y: one-hot labels if `x` is an array.
        dev: (x, y) or a dataset, for the choice among epochs.
        epochs: how many; 0 trains nothing and only measures.
        batch_size: images in a batch, None if `x` is a dataset.
        key: section of params.yaml that an error points at.
        checkpoints: where each epoch leaves what the next one needs, and where training goes on
            from, to the same bits. Only with `Batches`, which can go to an epoch.

    Raises:
        PipelineError: the loss is not a finite number.
    """
    if not epochs:
        dev_x, dev_y = dev if isinstance(dev, tuple) else (dev, None)
        return Fit([], model.evaluate(dev_x, dev_y, verbose=0, return_dict=True)["accuracy"])
    create_variables(model)
    state = TrainingState(model, checkpoints)
    if state.curve and checkpoints:
        x.go_to(len(state.curve))
        print(
            f"{key}: goes on after epoch {len(state.curve)} of {epochs}, from "
            f"{checkpoints.folder}; without that folder it begins anew",
            flush=True,
        )
    model.fit(
        x,
        y,
        validation_data=dev,
        epochs=epochs,
        initial_epoch=len(state.curve),
        batch_size=batch_size,
        callbacks=[StopAtNonFinite(key), state],
        shuffle=y is not None,  # a dataset brings its own order
        verbose=1 if sys.stdout.isatty() else 2,
    )
    model.set_weights(state.best_weights)
    return Fit(state.curve, state.best_accuracy)


def create_variables(model: keras.Model) -> None:
    """Create the optimizer's and the metrics' variables of a compiled classifier.

    Keras does so in the first training step, which makes TensorFlow trace that step twice.
    """
    model.optimizer.build(model.trainable_variables)
    one_hot = np.eye(model.output_shape[-1], dtype=np.float32)
    model.compute_metrics(None, one_hot, one_hot)
    model.reset_metrics()


class TrainingState(keras.callbacks.Callback):
    """What training needs to go on after an epoch, and the best weights so far.

    Args:
        model: compiled, its variables created; brought to the state that is in `checkpoints`.
        checkpoints: where it is kept; None keeps nothing.

    Attributes:
        curve: a row for each epoch that is done, the keys of `CURVE_COLUMNS`.
        best_weights: of the first epoch with the highest accuracy on dev.
        best_accuracy: that accuracy, in [0, 1].
    """

    NAME = "training"

    def __init__(self, model: keras.Model, checkpoints: Checkpoints | None) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self.curve: list[dict[str, float]] = []
        self.best_weights: list[npt.NDArray] = []
        self.best_accuracy = -1.0
        saved = checkpoints.load(self.NAME) if checkpoints else None
        if saved:
            # Random seeds (of Dropout, say) are among the model's variables, not its weights.
            for place, variable in enumerate(_variables(model)):
                variable.assign(saved[f"variable{place}"])
            best = range(len(model.weights))
            self.best_weights = [saved[f"best{place}"] for place in best]
            self.best_accuracy = float(saved["best_accuracy"])
            self.curve = json.loads(str(saved["curve"]))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Note how the epoch was, and keep what the next one needs."""
        values = (epoch + 1, *(float(logs[name]) for name in KERAS_NAMES))
        self.curve.append(dict(zip(CURVE_COLUMNS, values, strict=True)))
        if logs["val_accuracy"] > self.best_accuracy:
            self.best_accuracy = float(logs["val_accuracy"])
            self.best_weights = self.model.get_weights()
        if self._checkpoints:
            variables = enumerate(_variables(self.model))
            arrays = {f"variable{place}": np.asarray(variable) for place, variable in variables}
            arrays |= {f"best{place}": array for place, array in enumerate(self.best_weights)}
            arrays["best_accuracy"] = np.array(self.best_accuracy)
            arrays["curve"] = np.array(json.dumps(self.curve))
            self._checkpoints.save(self.NAME, arrays)


class StopAtNonFinite(keras.callbacks.Callback):
    """Ends training when the loss is not a finite number, with what the user can do about it.

    Args:
        key: section of params.yaml that the error points at.
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember the epoch, counted from 0."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Check the loss, a mean over the epoch so far, which a value that is none spoils."""
        self._check(logs["loss"], f"loss became {logs['loss']} in step {batch + 1} of")

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Check the loss on dev."""
        self._check(logs["val_loss"], f"loss on dev is {logs['val_loss']} after")

    def _check(self, loss: float, what: str) -> None:
        if np.isfinite(loss):
            return
        raise PipelineError(
            f"{self._key}: the {what} epoch {self._epoch + 1}, at a rate of "
            f"{float(self.model.optimizer.learning_rate):.3g}; lower {self._key}.learning_rate"
        )


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


def write_curve(curve: list[dict[str, float]], path: Path) -> None:
    """Write a learning curve as CSV, for `dvc plots`."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, CURVE_COLUMNS)
        writer.writeheader()
        writer.writerows(curve)
