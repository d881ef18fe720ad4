"""Resizing and preprocessing as layers: they equal Keras's own, and sit in front of the net."""

import importlib

import keras
import numpy as np
import pytest

from stages.nets import preprocessing
from stages.nets.applications import APPLICATIONS

ONE_OF_EACH = {a.preprocessing: a.name for a in APPLICATIONS.values()}
IMAGES = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_the_layers_equal_preprocess_input(name: str) -> None:
    module = importlib.import_module(f"keras.applications.{APPLICATIONS[name].module}")
    ours = IMAGES
    for layer in preprocessing.layers(APPLICATIONS[name].preprocessing):
        ours = layer(ours)
    theirs = module.preprocess_input(IMAGES.copy())
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-4)


def test_raw_images_are_resized_and_scaled_inside() -> None:
    identity = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Identity()])
    model = preprocessing.on_raw_images(identity, "tf", 64)
    out = model(np.full((1, 32, 32, 3), 255, np.float32)).numpy()
    assert out.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(out, 1.0)


def test_a_model_that_is_called_does_not_take_itself_to_be_in_training() -> None:
    image = keras.Input((32, 32, 3))
    net = keras.Model(image, keras.layers.BatchNormalization()(image))
    model = preprocessing.on_raw_images(net, "tf", 32)
    np.testing.assert_allclose(model(IMAGES), model.predict(IMAGES, verbose=0), rtol=1e-4)
    assert [w.max() for w in net.get_weights()] == [1, 0, 0, 1]  # as they began
