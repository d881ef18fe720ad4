"""Stage 7: measure the saved cifar10.h5, loaded as anybody would, on dev and test."""

import csv
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from stages.transfer import inference, measures
from stages.transfer.dataset import arrays
from stages.transfer.determinism import make_deterministic
from stages.transfer.errors import PipelineError
from stages.transfer.files import reading, replacing
from stages.transfer.paths import CONFUSION, DATASET, HEAD, METRICS, MODEL

if TYPE_CHECKING:
    from stages.transfer.params import Params

PARTS = ("dev", "test")
DIGITS = 6  # more would be the noise of float32
preprocess_data = importlib.import_module("0-transfer").preprocess_data


def main(params: "Params") -> None:
    """Write metrics.json and the confusion table.

    "val" is what tests/0-main.py measures: the archive's official test images, on which
    nothing was chosen. "dev" is the part of the training images on which everything was.
    """
    make_deterministic(0)
    images = dict(zip(PARTS, arrays(DATASET, *(f"x_{part}" for part in PARTS)), strict=True))
    labels = dict(zip(PARTS, arrays(DATASET, *(f"y_{part}" for part in PARTS)), strict=True))
    names = [str(name) for name in arrays(DATASET, "class_names")[0]]
    with reading(HEAD):
        dev_accuracy_head = float(arrays(HEAD, "dev_accuracy")[0])
    if not 0 <= dev_accuracy_head <= 1:
        raise PipelineError(
            f"{HEAD}: dev_accuracy is {dev_accuracy_head}, expected a share from 0 to 1; "
            "run `dvc repro --force train_head`"
        )

    with reading(MODEL):
        model = keras.models.load_model(MODEL)
    for weight in model.weights:  # a ReLU can hide NaN from all that follows it
        if not np.isfinite(weight).all():
            raise PipelineError(
                f"{MODEL}: {weight.path} holds NaN or infinity; train again with a lower "
                "fine_tune.learning_rate"
            )
    predicted = {}
    for part, x in images.items():
        x_p, _ = preprocess_data(x, labels[part])
        print(f"{MODEL} on {len(x)} {part} images", flush=True)
        predicted[part] = inference.predict(
            model, x_p, params.evaluate.batch_size, verbose=1 if sys.stdout.isatty() else 2
        )

    if not all(np.isfinite(probabilities).all() for probabilities in predicted.values()):
        raise PipelineError(
            f"{MODEL} gives NaN or infinity; train again with a lower fine_tune.learning_rate"
        )
    metrics = {
        measures.METRIC: measures.accuracy(predicted["test"], labels["test"]),
        "val_loss": measures.cross_entropy(predicted["test"], labels["test"]),
        "dev_accuracy_after_head": dev_accuracy_head,
        "dev_accuracy_after_fine_tune": measures.accuracy(predicted["dev"], labels["dev"]),
        "class_accuracy": measures.class_accuracy(predicted["test"], labels["test"], names),
    }
    with replacing(CONFUSION) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["actual", "predicted"])
        for actual, guess in zip(labels["test"], predicted["test"].argmax(axis=1), strict=True):
            writer.writerow([names[actual], names[guess]])
    with replacing(METRICS) as partial:
        partial.write_text(json.dumps(rounded(metrics), indent=2, allow_nan=False) + "\n")
    print(f"{measures.METRIC} {metrics[measures.METRIC]:.4f}")


def rounded(value: Any) -> Any:
    """Return numbers, in dictionaries too, with the digits that mean something."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return round(value, DIGITS)
