"""Stage 7: measure the saved cifar10.h5, loaded as anybody would, on dev and test."""

import csv
import importlib
import json
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from stages.environment import description, set_up
from stages.errors import PipelineError
from stages.files import read_arrays, reading, replacing
from stages.nets.inference import predict
from stages.paths import CONFUSION, DATASET, ENVIRONMENT, HEAD, METRICS, MODEL

if TYPE_CHECKING:
    from stages.params import Params

preprocess_data = importlib.import_module("0-transfer").preprocess_data


def main(params: "Params") -> None:
    """Write metrics.json, the confusion table and the environment that they were measured in.

    "val" is what tests/0-main.py measures: the archive's official test images, on which
    nothing was chosen. "dev" is the part of the training images on which everything was. The
    accuracy after the head alone is without the mirror image.
    """
    set_up(0)
    x_dev, y_dev, x_test, y_test, names = read_arrays(
        DATASET, "x_dev", "y_dev", "x_test", "y_test", "class_names"
    )
    (dev_accuracy_after_head,) = read_arrays(HEAD, "dev_accuracy")
    model = load_model()
    dev, test = (
        predict(model, preprocess_data(x, y)[0], params.evaluate.batch_size)
        for x, y in ((x_dev, y_dev), (x_test, y_test))
    )
    if not (np.isfinite(dev).all() and np.isfinite(test).all()):
        raise PipelineError(f"{MODEL} gives NaN; train again with a lower fine_tune.learning_rate")

    predicted = test.argmax(axis=1)
    right = predicted == y_test
    metrics: dict[str, Any] = {
        "val_accuracy": rounded(right.mean()),
        "val_loss": rounded(cross_entropy(test, y_test)),
        "dev_accuracy_after_head": rounded(dev_accuracy_after_head),
        "dev_accuracy_after_fine_tune": rounded(np.mean(dev.argmax(axis=1) == y_dev)),
        "class_accuracy": {
            str(names[label]): rounded(right[y_test == label].mean()) for label in np.unique(y_test)
        },
    }
    with replacing(CONFUSION) as partial, partial.open("w", newline="") as file:
        rows = zip(names[y_test], names[predicted], strict=True)
        csv.writer(file).writerows([("actual", "predicted"), *rows])
    for content, path in ((description(), ENVIRONMENT), (metrics, METRICS)):
        with replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n")
    print(f"val_accuracy {metrics['val_accuracy']:.4f}")


def load_model() -> keras.Model:
    """Load cifar10.h5; refuse weights that are no numbers, which a ReLU can hide."""
    with reading(MODEL):
        model = keras.models.load_model(MODEL)
    for weight in model.weights:
        if not np.isfinite(weight).all():
            raise PipelineError(
                f"{MODEL}: {weight.path} holds NaN or infinity; train again with a lower "
                "fine_tune.learning_rate"
            )
    return model


def cross_entropy(probabilities: npt.NDArray, labels: npt.NDArray) -> float:
    """Return the mean of -log p(label), in nats, clipped as Keras clips it (1e-7)."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(of_label, 1e-7, 1 - 1e-7)).mean())


def rounded(value: Any) -> float:
    """Return a number with the digits that mean something: more would be the noise of float32."""
    return round(float(value), 6)
