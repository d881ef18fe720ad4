"""Calibration of a classifier: expected calibration error and temperature scaling.

Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.
"""

import numpy as np
import numpy.typing as npt

BINS = 15


def cross_entropy(probabilities: npt.NDArray, labels: npt.NDArray) -> float:
    """Return the mean of -log p(label), in nats, clipped as Keras clips it (1e-7)."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(of_label, 1e-7, 1 - 1e-7)).mean())


def reliability(probabilities: npt.NDArray, labels: npt.NDArray) -> list[npt.NDArray]:
    """Bin predictions (n, classes) by confidence, the largest probability, in bins of equal width.

    Returns:
        Three arrays (BINS,): the number of predictions in each bin, the sum of their confidences,
        the number of those that are right. Bin b is for confidences in (b / BINS, (b + 1) / BINS].
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # Rounding can make a confidence exceed 1.
    bin_of = (np.ceil(confidence * BINS).astype(int) - 1).clip(0, BINS - 1)
    return [np.bincount(bin_of, weights, BINS) for weights in (None, confidence, right)]


def ece(probabilities: npt.NDArray, labels: npt.NDArray) -> float:
    """Return the expected calibration error, in [0, 1]: |accuracy - mean confidence|, averaged.

    The average is over the bins of `reliability`, each weighted by its predictions (equation 3 of
    the paper).
    """
    _, confidence, right = reliability(probabilities, labels)
    return float(np.abs(right - confidence).sum() / len(labels))


def scale(probabilities: npt.NDArray, temperature: float) -> npt.NDArray[np.float64]:
    """Divide the logits by a temperature: above 1 lowers confidence; the ranking is unchanged.

    Logits are logarithms of probabilities up to a constant, so softmax(logits / temperature) is
    probabilities ** (1 / temperature), normalized.
    """
    powers = probabilities.astype(np.float64) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: npt.NDArray, labels: npt.NDArray) -> float:
    """Return the temperature from 0.1 to 10, in steps of 1 %, that has the lowest cross-entropy."""
    grid = np.geomspace(0.1, 10, 461)
    return float(min(grid, key=lambda t: cross_entropy(scale(probabilities, t), labels)))
