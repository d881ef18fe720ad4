"""Folding: fewer operations, the same activations."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from stages.nets.folding import foldable, folded

IMAGES = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)


def with_random_weights(image: keras.KerasTensor, output: keras.KerasTensor) -> keras.Model:
    """Return a net without a weight at its initial value, as training leaves it."""
    net = keras.Model(image, output)
    rng = np.random.default_rng(2)
    net.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in net.get_weights()])
    return net


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize(
    "convolution",
    [
        lambda **o: keras.layers.Conv2D(4, 3, **o),
        lambda **o: keras.layers.Conv2D(6, 3, groups=3, **o),
        lambda **o: keras.layers.DepthwiseConv2D(3, depth_multiplier=2, **o),
        lambda **o: keras.layers.SeparableConv2D(4, 3, depth_multiplier=2, **o),
    ],
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_folded_net_gives_the_same_and_the_net_stays(
    convolution: Callable[..., keras.layers.Layer], use_bias: bool, options: dict[str, Any]
) -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="first")(image)  # nothing before it to fold it into
    x = keras.layers.BatchNormalization(**options)(convolution(use_bias=use_bias)(x))
    net = with_random_weights(image, keras.layers.Conv2D(2, 1, name="last")(keras.layers.ReLU()(x)))
    before, expected = net.get_weights(), net(IMAGES).numpy()

    fast = folded(net)
    kept = [x.name for x in fast.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert kept == ["first"]
    np.testing.assert_allclose(fast(IMAGES), expected, rtol=1e-4, atol=1e-4 * expected.std())
    for a, b in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_convolution_that_something_else_reads_is_left_alone() -> None:
    x = image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 1, name="read_twice")(x)
    x = keras.layers.Add()([x, keras.layers.BatchNormalization()(x)])
    x = keras.layers.Conv2D(3, 1, activation="relu", name="not_linear")(x)
    net = with_random_weights(image, keras.layers.BatchNormalization()(x))
    assert foldable(net) == []
    np.testing.assert_array_equal(folded(net)(IMAGES), net(IMAGES))
