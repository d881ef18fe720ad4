"""Stage 7: measure the saved model, loaded by a plain `load_model`, on dev and test."""

import csv
import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import h5py
import keras
import numpy as np

from stages.calibration import cross_entropy, ece, fit_temperature, scale
from stages.errors import PipelineError
from stages.files import digest, read_arrays, reading, replacing
from stages.paths import (
    ARCHIVE,
    CLASS_ACCURACY,
    CONFUSION,
    DATASET,
    ENVIRONMENT,
    HEAD_CURVE,
    METRICS,
    MODEL,
    MODEL_CARD,
    PROBABILITIES,
    WEIGHTS,
)
from stages.runtime import description, predict, set_up

if TYPE_CHECKING:
    from stages.params import Params


def main(params: "Params") -> None:
    """Write metrics.json, tables, the model card and the environment that they were measured in.

    `val_*`: official test images (what tests/0-main.py measures), not used for model selection;
    `dev_*`: held-out training images, used for it; after the head: without test-time augmentation.
    """
    set_up(0)
    x_dev, y_dev, x_test, y_test, names = read_arrays(
        DATASET, "x_dev", "y_dev", "x_test", "y_test", "class_names"
    )
    with reading(HEAD_CURVE), HEAD_CURVE.open(newline="") as file:
        dev_accuracy_after_head = max(float(row["dev_accuracy"]) for row in csv.DictReader(file))
    with reading(MODEL):
        model = keras.models.load_model(MODEL)
    dev, test = (predict(model, x, params.evaluate.batch_size) for x in (x_dev, x_test))
    if not (np.isfinite(dev).all() and np.isfinite(test).all()):
        raise PipelineError(f"{MODEL} predicts NaN; retrain with a lower fine_tune.learning_rate")

    predicted = test.argmax(axis=1)
    right = predicted == y_test
    metrics = {
        "val_accuracy": rounded(right.mean()),
        "val_loss": rounded(cross_entropy(test, y_test)),
        "dev_accuracy_after_head": rounded(dev_accuracy_after_head),
        "dev_accuracy": rounded(np.mean(dev.argmax(axis=1) == y_dev)),
        "ece": rounded(ece(test, y_test)),
    }
    by_class = [(names[k], rounded(right[y_test == k].mean())) for k in np.unique(y_test)]
    temperature = fit_temperature(dev, y_dev)
    with replacing(PROBABILITIES) as partial:
        np.savez(partial, dev=dev, test=test, temperature=temperature)
    for path, rows in (
        (CONFUSION, [("actual", "predicted"), *zip(names[y_test], names[predicted], strict=True)]),
        (CLASS_ACCURACY, [("class", "accuracy"), *by_class]),
    ):
        with replacing(path) as partial, partial.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    ece_scaled = ece(scale(test, temperature), y_test)
    with replacing(MODEL_CARD) as partial:
        partial.write_text(model_card(params, metrics, by_class, temperature, ece_scaled))
    for content, path in ((description(), ENVIRONMENT), (metrics, METRICS)):
        with replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n")
    print(f"val_accuracy {metrics['val_accuracy']:.4f}")


def model_card(
    params: "Params",
    metrics: dict[str, float],
    by_class: list[tuple[str, float]],
    temperature: float,
    ece_scaled: float,
) -> str:
    """Return stages/model_card.md, filled in."""
    with reading(WEIGHTS), h5py.File(WEIGHTS) as file:
        weights = str(file.attrs["source"])
    archive = digest(ARCHIVE)
    named = params.backbone.sha256 | params.download.sha256
    names = {sha256: name for name, sha256 in named.items()}
    return Template(Path(__file__).with_name("model_card.md").read_text()).substitute(
        {name: f"{value:.4f}" for name, value in metrics.items()},
        **dict(params.backbone),
        archive=archive,
        archive_name=names.get(archive, "not named"),
        weights_digest=weights,
        weights_name=names.get(weights, "not named"),
        by_class="\n".join(f"| {name} | {accuracy:.4f} |" for name, accuracy in by_class),
        temperature=f"{temperature:.2f}",
        ece_scaled=f"{ece_scaled:.4f}",
    )


def rounded(value: Any) -> float:
    """Round to six digits; more are float32 rounding errors."""
    return round(float(value), 6)
