"""Stage 7: measure the saved model on dev and test, BatchNormalization folded."""

import csv
import json
from pathlib import Path
from string import Template
from typing import Any

import h5py
import keras
import numpy as np

from stages import paths
from stages.calibration import cross_entropy, ece, fit_temperature, scale
from stages.data.dataset import PARTS, DataSet
from stages.errors import PipelineError
from stages.files import reading, replacing, write_csv
from stages.inference import fast
from stages.params import Params
from stages.runtime import description, predict, set_up


def main(params: Params) -> None:
    """Write metrics.json, tables, the model card and the environment that they were measured in.

    `val_*`: test images (what tests/0-main.py measures), not used for model selection; balanced:
    the mean over the classes. `dev_*`: held-out training images, used for it;
    `dev_accuracy_after_head`: before fine-tuning, without test-time augmentation.
    """
    set_up(0)
    data = DataSet()
    y_dev, y_test, names = data.labels("dev"), data.labels("test"), data.class_names
    with reading(paths.HEAD_CURVE), paths.HEAD_CURVE.open(newline="") as file:
        dev_accuracy_after_head = max(float(row["dev_accuracy"]) for row in csv.DictReader(file))
    path = paths.model(params.data.name)
    with reading(path):
        model = keras.models.load_model(path)
    size, folded = params.evaluate.batch_size, fast(model)
    dev, test = (predict(folded, data.images(part), size) for part in ("dev", "test"))
    # A ReLU can hide a weight that is NaN.
    wrong = [f": {w.path} holds NaN or infinity" for w in model.weights if not np.isfinite(w).all()]
    if wrong or not (np.isfinite(dev).all() and np.isfinite(test).all()):
        what = wrong[0] if wrong else " predicts NaN"
        raise PipelineError(f"{path}{what}; retrain with a lower fine_tune.learning_rate")

    predicted = test.argmax(axis=1)
    right = predicted == y_test
    of_class = [(k, y_test == k) for k in np.unique(y_test)]
    by_class = [(names[k], rounded(right[its].mean()), its.sum()) for k, its in of_class]
    metrics = {
        "val_accuracy": rounded(right.mean()),
        "val_balanced_accuracy": rounded(np.mean([accuracy for _, accuracy, _ in by_class])),
        "val_loss": rounded(cross_entropy(test, y_test)),
        "dev_accuracy_after_head": rounded(dev_accuracy_after_head),
        "dev_accuracy": rounded(np.mean(dev.argmax(axis=1) == y_dev)),
        "ece": rounded(ece(test, y_test)),
        "test_images": len(y_test),
    }
    temperature = fit_temperature(dev, y_dev)
    with replacing(paths.PROBABILITIES) as partial:
        np.savez(partial, dev=dev, test=test, temperature=temperature)
    write_csv(paths.CLASS_ACCURACY, [("class", "accuracy", "images"), *by_class])
    ece_scaled = ece(scale(test, temperature), y_test)
    with replacing(paths.MODEL_CARD) as partial:
        card = model_card(params, data, metrics, by_class, temperature, ece_scaled)
        partial.write_text(card, encoding="utf-8")
    for content, path in ((description(), paths.ENVIRONMENT), (metrics, paths.METRICS)):
        with replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n")
    print(f"val_accuracy {metrics['val_accuracy']:.4f}")


def model_card(
    params: Params,
    data: DataSet,
    metrics: dict[str, float],
    by_class: list[tuple[str, float, int]],
    temperature: float,
    ece_scaled: float,
) -> str:
    """Return stages/model_card.md, filled in."""
    with reading(paths.WEIGHTS), h5py.File(paths.WEIGHTS) as file:
        weights = str(file.attrs["source"])
    names = {sha256: name for name, sha256 in params.backbone.sha256.items()}
    archives = {sha256: f" ({name})" for name, sha256 in params.download.sha256.items()}
    height, width, _ = data.image_shape
    about = data.about()
    return Template(Path(__file__).with_name("model_card.md").read_text("utf-8")).substitute(
        {name: f"{value:.4f}" for name, value in metrics.items() if name != "test_images"},
        **dict(params.backbone),
        aspect=data.aspect,
        by_class="\n".join(f"| {name} | {accuracy:.4f} | {n} |" for name, accuracy, n in by_class),
        classes=len(data.class_names),
        data=params.data.name,
        ece_scaled=f"{ece_scaled:.4f}",
        images=", ".join(f"{len(data.labels(part)):,} {part}" for part in PARTS),
        model=paths.model(params.data.name),
        shape=f"{height}x{width}",
        notes=about["notes"],
        source=about["source"],
        temperature=f"{temperature:.2f}",
        test_images=metrics["test_images"],
        title=about["title"] + archives.get(about["source"], ""),
        weights_digest=weights,
        weights_name=names.get(weights, "not named"),
    )


def rounded(value: Any) -> float:
    """Round to six digits; more are float32 rounding errors."""
    return round(float(value), 6)
