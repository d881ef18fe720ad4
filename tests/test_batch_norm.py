"""BatchNormalization: the fused layer is Keras's layer, and follows a short training."""

from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.transfer import backbones, batch_norm, cuts

X = np.random.default_rng(1).normal(3.0, 2.0, (16, 5, 5, 4)).astype(np.float32)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_the_fused_layer_equals_keras_forward_backward_and_in_its_averages(
    scale: bool, center: bool
) -> None:
    def one_step(layer: keras.layers.BatchNormalization) -> list[np.ndarray]:
        layer.build(X.shape)
        layer.set_weights([np.linspace(0.5, 2, 4)] * len(layer.get_weights()))
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.sin(y))
        variables = [x, *(v.value for v in layer.trainable_variables)]
        gradients = tape.gradient(loss, variables)
        inference = layer(x, training=False)
        return [np.asarray(a) for a in [y, inference, *gradients, *layer.get_weights()]]

    options = {"scale": scale, "center": center, "momentum": 0.7}
    ours = one_step(batch_norm.FusedBatchNormalization(**options))
    theirs = one_step(keras.layers.BatchNormalization(**options))
    assert len(ours) == len(theirs) == 3 + 2 * (scale + center) + 2
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_frozen_fused_layer_uses_its_averages_in_training_too() -> None:
    layer = batch_norm.FusedBatchNormalization(trainable=False)
    layer.build(X.shape)
    np.testing.assert_allclose(layer(X, training=True), layer(X, training=False))
    assert (layer.get_weights()[2] == 0).all()


def test_all_batch_norm_is_replaced_and_all_else_is_shared() -> None:
    net = backbones.build("MobileNetV2", 32)
    _, suffix = cuts.split(net, "block_14_add")
    trained = batch_norm.for_training(suffix, "adapting", 0.9)
    kinds = [type(layer) for layer in trained.layers]
    assert keras.layers.BatchNormalization not in kinds
    assert {layer.momentum for layer in trained.layers if hasattr(layer, "momentum")} == {0.9}
    shared = {id(w) for w in suffix.weights} & {id(w) for w in trained.weights}
    assert len(shared) == sum("bn" not in weight.path.lower() for weight in suffix.weights)
    x = np.random.default_rng(1).random((2, 1, 1, 160), np.float32)
    np.testing.assert_allclose(trained(x), suffix(x), rtol=1e-5, atol=1e-6)


def test_it_keeps_up_with_a_short_training() -> None:
    """With ImageNet's momentum inference lags behind training; adapted, it follows.

    The layer sits in a nested model, as a backbone does, where `training=False` would be ignored.
    """

    def moving_mean(momentum: float) -> float:
        keras.utils.set_random_seed(1)
        norm = keras.layers.BatchNormalization(momentum=0.999, name="norm")
        image = keras.Input((5, 5, 4))
        inner = batch_norm.for_training(keras.Model(image, norm(image)), "adapting", momentum)
        model = keras.Sequential([image, inner, keras.layers.GlobalAveragePooling2D()])
        model.compile("sgd", "mse")
        model.fit(X, np.zeros((16, 4)), epochs=40, batch_size=16, verbose=0)
        return float(inner.get_layer("norm").moving_mean.numpy().mean())

    assert moving_mean(0.999) < 1
    assert moving_mean(0.9) == pytest.approx(X.mean(), rel=0.05)


def frozen_inside(mode: batch_norm.Mode) -> tuple[keras.Model, keras.Model]:
    """Return a model with BatchNormalization in a nested one, and its twin for training."""
    keras.utils.set_random_seed(1)
    image = keras.Input((5, 5, 4))
    inner = keras.Sequential([image, keras.layers.BatchNormalization(name="norm")], name="inner")
    outer_image = keras.Input((5, 5, 4))
    outer = keras.Model(outer_image, keras.layers.GlobalAveragePooling2D()(inner(outer_image)))
    return outer, batch_norm.for_training(outer, mode, 0.9)


def test_frozen_means_frozen_while_training_too() -> None:
    """The layers are frozen, because a frozen base's `training=False` does not last (next test)."""
    outer, twin = frozen_inside("frozen")
    twin.compile("sgd", "mse")
    twin.fit(X, np.zeros((16, 4)), epochs=2, verbose=0)
    np.testing.assert_allclose(twin(X, training=True), outer(X, training=False), rtol=1e-6)
    for a, b in zip(outer.get_weights(), twin.get_weights(), strict=True):
        assert (a == b).all()
    _, adapting = frozen_inside("adapting")
    assert not np.allclose(adapting(X, training=True), outer(X, training=False), atol=0.1)


def test_keras_ignores_training_false_inside_a_model_that_trains() -> None:
    """The behaviour that `for_training` guards against. Should Keras mend it, this test says so."""
    image = keras.Input((5, 5, 4))
    base = keras.Sequential([image, keras.layers.BatchNormalization()])
    outer = keras.Model(image, base(image, training=False))
    by_batch = np.asarray(outer(X, training=True))
    assert abs(by_batch.mean()) < 0.01  # normalised by the batch, whose mean is 3


def test_re_estimated_averages_are_those_of_the_batches() -> None:
    _, twin = frozen_inside("re-estimated")
    batch_norm.re_estimate(twin, [X[:8], X[8:]])
    _, _, mean, variance = twin.get_layer("inner").get_layer("norm").get_weights()
    np.testing.assert_allclose(mean, X.mean(axis=(0, 1, 2)), rtol=1e-5)
    halves = [half.var(axis=(0, 1, 2)) for half in (X[:8], X[8:])]
    np.testing.assert_allclose(variance, np.mean(halves, axis=0), rtol=1e-4)
    np.testing.assert_allclose(twin(X).numpy().mean(), 0, atol=1e-4)


def test_weights_come_back_by_name() -> None:
    outer, twin = frozen_inside("adapting")
    norm = twin.get_layer("inner").get_layer("norm")
    norm.set_weights([np.full(4, float(i)) for i in range(4)])
    batch_norm.copy_weights(twin, outer)
    assert [w[0] for w in outer.get_weights()] == [0, 1, 2, 3]


def test_a_net_without_batch_norm_is_not_run_to_re_estimate_it() -> None:
    def batches() -> Iterator[np.ndarray]:
        pytest.fail("a batch was asked for")
        yield X

    batch_norm.re_estimate(keras.Sequential([keras.Input(X.shape[1:])]), batches())
