"""Measures of a classifier, and the verdict on them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.transfer.errors import PipelineError

METRIC = "val_accuracy"


def accuracy(probabilities: npt.NDArray, labels: npt.NDArray) -> float:
    """Return the share of rows, (n, classes), whose largest entry is at the label, (n,)."""
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def cross_entropy(probabilities: npt.NDArray, labels: npt.NDArray) -> float:
    """Return the mean of -log p(label), in nats, clipped as Keras clips it (1e-7)."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(of_label, 1e-7, 1 - 1e-7)).mean())


def class_accuracy(
    probabilities: npt.NDArray, labels: npt.NDArray, names: list[str]
) -> dict[str, float]:
    """Return the accuracy on each class that has images, by its name."""
    right = probabilities.argmax(axis=1) == labels
    return {
        name: float(right[labels == label].mean())
        for label, name in enumerate(names)
        if (labels == label).any()
    }


def verdict(metrics: Path, minimum: float) -> str:
    """Compare the saved accuracy with the gate. Anything but a clear pass is a failure.

    Args:
        metrics: a JSON file with a number in [0, 1] under "val_accuracy".
        minimum: what it has to reach, in [0, 1].

    Returns:
        A line that says that, and by how much, the gate is passed.

    Raises:
        PipelineError: the file is missing or malformed, or the accuracy is below the minimum.
    """
    try:
        content: Any = json.loads(
            metrics.read_text(encoding="utf-8"), object_pairs_hook=_each_key_once
        )
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise PipelineError(
            f"gate: FAILED, {metrics}: {reason}; run `dvc repro evaluate`"
        ) from error
    measured = measured_accuracy(content)
    if measured is None:
        value = content.get(METRIC) if isinstance(content, dict) else None
        shown = type(value).__name__ if isinstance(value, dict | list) else f"{value!r:.80}"
        raise PipelineError(
            f"gate: FAILED, {metrics}: {METRIC} is {shown}, expected a number from 0 to 1; "
            "run `dvc repro evaluate`"
        )
    shown = f"{METRIC} {measured:.4f}"
    if math.isnan(minimum) or measured < minimum:
        raise PipelineError(f"gate: FAILED, {shown} is below gate.minimum {minimum}")
    return f"gate: passed, {shown} reaches gate.minimum {minimum}"


def measured_accuracy(metrics: Any) -> float | None:
    """Return the accuracy in the content of metrics.json, None if there is no number in [0, 1]."""
    value = metrics.get(METRIC) if isinstance(metrics, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object. Of a key that is there twice, either value could be the measured one."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)
