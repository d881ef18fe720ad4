"""The recipe: the rate's curve, what is decayed, how labels are smoothed."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.training import recipe


@given(peak=st.floats(1e-5, 1), steps=st.integers(0, 1000), step=st.integers(0, 1000))
def test_the_rate_falls_from_its_peak_to_zero_in_a_straight_line(
    peak: float, steps: int, step: int
) -> None:
    made = recipe.optimizer(peak, steps)
    made.iterations.assign(step)
    steps = max(1, steps)  # without an epoch no step is done, but a model is compiled all the same
    left = max(0, steps - step) / steps
    assert float(made.learning_rate) == pytest.approx(peak * left, rel=1e-3, abs=peak * 1e-6)


def test_weights_are_decayed_and_biases_are_not() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile(recipe.optimizer(0.1, steps=10, weight_decay=0.5), recipe.loss())
    before = [np.ones((2, 2)), np.ones(2)]
    model.set_weights(before)
    model.train_on_batch(np.zeros((4, 2)), np.full((4, 2), 0.5))  # a gradient of zero
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel, 1 - 0.1 * 0.5)
    np.testing.assert_allclose(bias, 1)


def test_only_a_pointwise_kernel_takes_an_orthogonal_step() -> None:
    """Two steps, against the formulas of Jordan et al. and, for the size, of Liu et al."""
    shapes = {
        "pointwise": (1, 1, 6, 24),
        "depthwise": (3, 3, 6, 1),
        "a scale of channels": (1, 1, 6, 1),
        "head": (6, 10),
    }
    variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in shapes.values()]
    rng = np.random.default_rng(1)
    muon = recipe.optimizer(0.1, steps=1000, name="muon")
    momentum = expected = np.zeros((6, 24))
    for step in range(2):
        gradients = [rng.normal(size=shape).astype(np.float32) for shape in shapes.values()]
        muon.apply(gradients, variables)
        momentum = 0.95 * momentum + gradients[0][0, 0]
        x = gradients[0][0, 0] + 0.95 * momentum
        x /= np.linalg.norm(x)
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
        assert np.linalg.svd(x, compute_uv=False) == pytest.approx(np.ones(6), abs=0.35)
        expected = expected - 0.1 * (1 - step / 1000) * 0.2 * 24**0.5 * x
        if not step:  # Adam's first step has one size, whatever the gradient
            for variable in variables[1:]:
                np.testing.assert_allclose(np.abs(variable), 0.1, rtol=1e-3)
    np.testing.assert_allclose(variables[0][0, 0], expected, rtol=1e-3, atol=1e-4)


def test_the_loss_is_cross_entropy_of_logits_with_smoothed_labels() -> None:
    logits = np.array([[2.0, 0.0, 0.0]])
    of_class = np.log(np.exp(logits).sum()) - logits[0]  # -log of its probability
    found = float(recipe.loss(label_smoothing=0.3)(np.array([[1.0, 0, 0]]), logits))
    assert found == pytest.approx(of_class @ [0.8, 0.1, 0.1], rel=1e-5)
