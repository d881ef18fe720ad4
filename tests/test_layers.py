"""The suffix in training: halves of a batch, and BatchNormalization keeps up."""

import keras
import numpy as np
import pytest

from stages.training import layers

X = np.random.default_rng(1).normal(3.0, 2.0, (16, 5, 5, 4)).astype(np.float32)


def test_halves_of_a_batch_are_computed_as_two_batches() -> None:
    keras.utils.set_random_seed(1)
    parts = [
        keras.layers.DepthwiseConv2D(3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.Conv2D(2, 1),
    ]
    model = keras.Sequential([keras.Input((5, 5, 4)), *parts])
    halved = layers.InHalves(model)
    for training in (True, False):
        expected = np.concatenate([model(half, training=training) for half in (X[:8], X[8:])])
        np.testing.assert_allclose(halved(X, training=training), expected, rtol=1e-5, atol=1e-6)
    for count in (1, 3):  # of a last batch on dev
        np.testing.assert_allclose(halved(X[:count]), model(X[:count]), rtol=1e-5, atol=1e-6)
    assert {id(w) for w in halved.trainable_weights} == {id(w) for w in model.trainable_weights}


def nested(mode: layers.Mode, momentum: float = 0.9) -> tuple[keras.Model, keras.Model]:
    """Return a model with layers to be replaced in a nested one, and its twin for training."""
    keras.utils.set_random_seed(1)
    image = keras.Input((5, 5, 4))
    parts = [
        keras.layers.Conv2D(4, 1, use_bias=False, name="pointwise"),
        keras.layers.Conv2DTranspose(4, 1, name="conv"),  # which is not replaced
        keras.layers.BatchNormalization(name="norm"),
    ]
    inner = keras.Sequential([image, *parts], name="inner")
    inner.get_layer("pointwise").set_weights([np.eye(4)[None, None]])
    inner.get_layer("conv").set_weights([np.eye(4)[None, None], np.zeros(4)])
    outer_image = keras.Input((5, 5, 4))
    outer = keras.Model(outer_image, keras.layers.GlobalAveragePooling2D()(inner(outer_image)))
    twin = layers.for_training(outer, mode, momentum)
    twin.compile("sgd", "mse")
    return outer, twin


@pytest.mark.parametrize("mode", ["adapting", "frozen"])
def test_the_replaced_layers_alone_are_the_twins_own_and_come_back_by_name(
    mode: layers.Mode,
) -> None:
    outer, twin = nested(mode)
    own = {id(w) for w in twin.weights} - {id(w) for w in outer.weights}
    pointwise, norm = (twin.get_layer("inner").get_layer(name) for name in ("pointwise", "norm"))
    assert own == {id(w) for w in pointwise.weights + norm.weights}
    np.testing.assert_allclose(twin(X), outer(X), rtol=1e-5, atol=1e-6)
    norm.set_weights([np.full(4, float(i)) for i in range(4)])
    layers.copy_weights(twin, outer)
    np.testing.assert_array_equal([w[0] for w in outer.get_weights()[3:]], range(4))


def test_it_keeps_up_with_a_short_training() -> None:
    """With ImageNet's momentum inference lags behind training; adapted, it follows."""

    def moving_mean(momentum: float) -> float:
        _, twin = nested("adapting", momentum)
        for name in ("pointwise", "conv"):
            twin.get_layer("inner").get_layer(name).trainable = False
        twin.fit(np.tile(X, (40, 1, 1, 1)), np.zeros((640, 4)), batch_size=16, verbose=0)
        return float(twin.get_layer("inner").get_layer("norm").moving_mean.numpy().mean())

    assert moving_mean(0.999) < 1
    assert moving_mean(0.9) == pytest.approx(X.mean(), rel=0.05)


def test_frozen_means_frozen_while_training_too() -> None:
    outer, twin = nested("frozen")
    before = outer.get_weights()
    twin.fit(X, np.zeros((16, 4)), epochs=2, verbose=0)
    layers.copy_weights(twin, outer)
    np.testing.assert_allclose(twin(X, training=True), outer(X, training=False), rtol=1e-6)
    changed = [(a != b).any() for a, b in zip(before, twin.get_weights(), strict=True)]
    assert changed == [True, True, True, False, False, False, False]
    _, adapting = nested("adapting")
    assert not np.allclose(adapting(X, training=True), outer(X, training=False), atol=0.1)
