"""The training loop: selection of the best epoch, learning curve, checkpoint."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from stages.errors import PipelineError
from stages.files import write_csv
from stages.training.batches import Batches
from stages.training.checkpoint import Checkpoint

CURVE_COLUMNS = ("epoch", "accuracy", "loss", "dev_accuracy", "dev_loss")
KERAS_NAMES = ("accuracy", "loss", "val_accuracy", "val_loss")  # of the columns but the first


def fit(
    model: keras.Model,
    train: Batches,
    dev: Batches,
    *,
    epochs: int,
    curve: Path,
    key: str,
    checkpoint: Checkpoint | None = None,
) -> float:
    """Train a compiled model and leave it with the weights of the epoch that is best on dev.

    Args:
        model: compiled with the metric "accuracy".
        train: what it is trained on.
        dev: used to select the best epoch.
        epochs: 0 trains nothing and measures the weights as they are.
        curve: a CSV file, for `dvc plots`, of columns `CURVE_COLUMNS`; rewritten atomically.
        key: section of params.yaml that an error points at.
        checkpoint: for resuming bit for bit.

    Returns:
        Accuracy on dev of the weights that are kept, in [0, 1].

    Raises:
        PipelineError: the loss is not a finite number.
    """
    if not epochs:
        found = model.evaluate(dev.dataset(), verbose=0, return_dict=True)
        row = {"epoch": 0, "dev_accuracy": found["accuracy"], "dev_loss": found["loss"]}
        _write_curve([row], curve)
        return found["accuracy"]
    create_variables(model)
    state = TrainingState(model, curve, key, checkpoint)
    if done := len(state.curve):
        train.go_to(done)
        print(f"{key}: resuming after epoch {done} of {epochs}", flush=True)
    model.fit(
        train.dataset(),
        validation_data=dev.dataset(),
        epochs=epochs,
        initial_epoch=done,
        callbacks=[state],
        shuffle=False,  # `Batches` bring their own order
        verbose=1 if sys.stdout.isatty() else 2,
    )
    model.set_weights(state.best_weights)
    return state.best_accuracy


def create_variables(model: keras.Model) -> None:
    """Create the optimizer's and the metrics' variables of a compiled classifier.

    Keras does so in the first training step, which makes TensorFlow trace that step twice.
    """
    model.optimizer.build(model.trainable_variables)
    one_hot = np.eye(model.output_shape[-1], dtype=np.float32)
    model.compute_metrics(None, one_hot, one_hot)
    model.reset_metrics()


class TrainingState(keras.callbacks.Callback):
    """The curve and the best weights so far, and everything needed to resume.

    The model, compiled, its variables created, is restored from `checkpoint`.

    Attributes:
        curve: a row for each epoch that is done, the keys of `CURVE_COLUMNS`.
        best_weights: of the first epoch with the highest accuracy on dev.
        best_accuracy: that accuracy, in [0, 1].
    """

    def __init__(
        self, model: keras.Model, path: Path, key: str, checkpoint: Checkpoint | None
    ) -> None:
        super().__init__()
        self._path = path
        self._key = key
        self._checkpoint = checkpoint
        self.curve: list[dict[str, float]] = []
        self.best_weights: list[npt.NDArray] = []
        self.best_accuracy = -1.0
        if checkpoint and (saved := checkpoint.load()):
            for place, variable in enumerate(_variables(model)):
                variable.assign(saved[f"variable{place}"])
            self.best_weights = [saved[f"best{place}"] for place in range(len(model.weights))]
            self.best_accuracy = float(saved["best_accuracy"])
            self.curve = json.loads(str(saved["curve"]))
            _write_curve(self.curve, path)

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Raise if the running mean loss is not finite."""
        self._check(logs["loss"], f"loss became {logs['loss']} in step {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Append to the curve, keep the best weights, save the checkpoint."""
        self._check(logs["val_loss"], f"loss on dev is {logs['val_loss']} at the end")
        values = (epoch + 1, *(float(logs[name]) for name in KERAS_NAMES))
        self.curve.append(dict(zip(CURVE_COLUMNS, values, strict=True)))
        if logs["val_accuracy"] > self.best_accuracy:
            self.best_accuracy = float(logs["val_accuracy"])
            self.best_weights = self.model.get_weights()
        if self._checkpoint:
            arrays = {f"variable{i}": np.asarray(v) for i, v in enumerate(_variables(self.model))}
            arrays |= {f"best{i}": array for i, array in enumerate(self.best_weights)}
            arrays["best_accuracy"] = np.array(self.best_accuracy)
            arrays["curve"] = np.array(json.dumps(self.curve))
            self._checkpoint.save(arrays)
        # After the checkpoint: an epoch whose checkpoint failed is not in the curve.
        _write_curve(self.curve, self._path)

    def _check(self, loss: float, what: str) -> None:
        if not np.isfinite(loss):
            raise PipelineError(
                f"{self._key}: the {what} of epoch {len(self.curve) + 1}, at a learning rate of "
                f"{float(self.model.optimizer.learning_rate):.3g}; lower {self._key}.learning_rate"
            )


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Return all that a step changes: weights, random seeds (of Dropout), the optimizer's."""
    return [*model.variables, *model.optimizer.variables]


def _write_curve(curve: list[dict[str, float]], path: Path) -> None:
    rows = ([row.get(column, "nan") for column in CURVE_COLUMNS] for row in curve)
    write_csv(path, [CURVE_COLUMNS, *rows])
