"""Calibration: the error is the paper's, and a temperature that was put in is found again."""

import numpy as np
import pytest

from stages.calibration import BINS, cross_entropy, ece, fit_temperature, reliability, scale


def drawn(n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (n, 10), some of them zero, and labels drawn from just these."""
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(10, 0.1), n).astype(np.float32)
    return probabilities, (probabilities.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 9)


def test_ece_of_an_example_worked_by_hand() -> None:
    """Bins of three and one: 3/4 |2/3 - 0.7| + 1/4 |0 - 1|, a confidence of one included."""
    probabilities = np.array([[0.7, 0.3], [0.29, 0.71], [0.69, 0.31], [1.0, 0.0]], np.float32)
    labels = np.array([0, 1, 1, 1])
    assert ece(probabilities, labels) == pytest.approx(3 / 4 * (0.7 - 2 / 3) + 1 / 4)
    count, confidence, right = reliability(probabilities, labels)
    assert {b: n for b, n in enumerate(count) if n} == {10: 3, BINS - 1: 1}
    assert confidence.sum() == pytest.approx(3.1)
    assert right.sum() == 2


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_a_temperature_that_was_put_in_is_found_and_mends_the_error(factor: float) -> None:
    probabilities, labels = drawn()
    shown = scale(probabilities, 1 / factor)  # too sure, if the factor is above 1
    temperature = fit_temperature(shown, labels)
    assert temperature == pytest.approx(factor, rel=0.03)
    mended = scale(shown, temperature)
    np.testing.assert_allclose(mended.sum(axis=1), 1)
    assert (mended.argmax(axis=1) == shown.argmax(axis=1)).all()
    assert ece(mended, labels) < 0.015
    if factor != 1:
        assert ece(shown, labels) > 0.05
        assert cross_entropy(mended, labels) < cross_entropy(shown, labels)
