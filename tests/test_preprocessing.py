"""Resizing and preprocessing as layers: they equal Keras's own, and sit in front of the net."""

import importlib

import keras
import numpy as np
import pytest

from stages.nets import preprocessing
from stages.nets.applications import APPLICATIONS
from stages.nets.graph import applied

ONE_OF_EACH = {a.preprocessing: a.name for a in APPLICATIONS.values()}
IMAGES = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_the_layers_equal_preprocess_input(name: str) -> None:
    """Of "caffe" its exchange of channels is in the net (test_pretrained)."""
    module = importlib.import_module(f"keras.applications.{APPLICATIONS[name].module}")
    ours = IMAGES
    for layer in preprocessing.layers(APPLICATIONS[name].preprocessing):
        ours = layer(ours)
    theirs = module.preprocess_input(IMAGES.copy())
    if APPLICATIONS[name].preprocessing == "caffe":
        theirs = theirs[..., ::-1]
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-4)


def test_raw_images_are_resized_and_scaled_inside() -> None:
    image = keras.Input((64, 64, 3))
    identity = keras.Model(image, keras.layers.Identity()(image))
    model = preprocessing.on_raw_images(identity, "tf", (32, 32, 3))
    out = model(np.full((1, 32, 32, 3), 255, np.float32)).numpy()
    assert out.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(out, 1.0)


def test_batch_normalization_is_in_inference_when_called_and_in_training_in_fit() -> None:
    image = keras.Input((32, 32, 3))
    net = keras.Model(image, keras.layers.BatchNormalization()(image))
    model = preprocessing.on_raw_images(net, "tf", (32, 32, 3))
    np.testing.assert_allclose(model(IMAGES), model.predict(IMAGES, verbose=0), rtol=1e-4)
    assert [w.max() for w in net.get_weights()] == [1, 0, 0, 1]  # as they began
    model.compile("sgd", "mse")
    model.fit(IMAGES, IMAGES, verbose=0)
    *_, mean, variance = net.get_weights()
    assert abs(mean).min() > 0
    assert (variance != 1).all()


def test_a_net_that_is_applied_is_flat_and_shares_its_weights() -> None:
    image = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(3, 3, padding="same", name="conv")(image)
    net = keras.Model(image, keras.layers.Add(name="sum")([y, image * 2.0]))
    other = keras.Input((8, 8, 3))
    flat = keras.Model(other, applied(net, other))
    assert {"conv", "sum"} < {layer.name for layer in flat.layers}
    assert flat.get_layer("conv") is net.get_layer("conv")
    x = IMAGES[:, :8, :8]
    np.testing.assert_allclose(flat(x), net(x), rtol=1e-6)
