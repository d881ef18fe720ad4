"""Backbones: the table, the weights files, and preprocessing as layers."""

import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

from stages.transfer import backbones
from stages.transfer.applications import APPLICATIONS
from stages.transfer.errors import PipelineError

ONE_OF_EACH = {a.preprocessing: a.name for a in reversed(APPLICATIONS.values())}


@pytest.mark.parametrize("name", ONE_OF_EACH.values())
def test_preprocessing_layers_equal_preprocess_input(name: str) -> None:
    module = importlib.import_module(f"keras.applications.{APPLICATIONS[name].module}")
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3)).astype(np.float32)
    ours = images
    for layer in backbones.preprocessing(APPLICATIONS[name].preprocessing):
        ours = layer(ours)
    theirs = module.preprocess_input(images.copy())
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-4)


def test_keras_has_no_hash_for_mobilenet_v2_and_a_file_for_each_size() -> None:
    small, large = (backbones.official_weights("MobileNetV2", size) for size in (96, 224))
    assert small.hash is large.hash is None
    assert "96" in small.name
    assert "224" in large.name
    assert backbones.official_weights("DenseNet121", 96).hash


def test_weights_survive_a_file_and_other_files_are_refused(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    first = backbones.build("MobileNetV2", 32)
    first.save_weights(tmp_path / "a.weights.h5")
    second = backbones.build("MobileNetV2", 64, tmp_path / "a.weights.h5")
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert (a == b).all()
    for content in (b"", b"not HDF5" * 100):
        (tmp_path / "b.weights.h5").write_bytes(content)
        with pytest.raises(PipelineError, match="expected the weights of MobileNetV2") as error:
            backbones.build("MobileNetV2", 32, tmp_path / "b.weights.h5")
        assert "\n" not in str(error.value)
    with pytest.raises(PipelineError, match="expected the weights of MobileNet "):
        backbones.build("MobileNet", 32, tmp_path / "a.weights.h5")


def test_raw_images_are_resized_and_scaled_inside() -> None:
    identity = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Identity()])
    model = backbones.on_raw_images(identity, "MobileNetV2", 64)
    out = model(np.full((1, 32, 32, 3), 255, np.float32)).numpy()
    assert out.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(out, 1.0)


def test_a_model_that_is_called_does_not_take_itself_to_be_in_training() -> None:
    net = backbones.build("MobileNetV2", 32)
    model = backbones.on_raw_images(net, "MobileNetV2", 32)
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    before = model.get_weights()
    out = model(images).numpy()
    np.testing.assert_allclose(out, model.predict(images, verbose=0), rtol=1e-4)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keras_hands_on_that_resizing_takes_itself_to_be_in_training() -> None:
    """Where this fails, Keras has been mended, and `training=False` may go."""
    images = keras.Input((4, 4, 3))
    normalised = keras.layers.BatchNormalization()(keras.layers.Resizing(4, 4)(images))
    model = keras.Model(images, normalised)
    before = model.get_weights()
    model(np.random.default_rng(1).random((2, 4, 4, 3), np.float32))
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


def test_only_for_its_weights_does_keras_scale_for_efficientnet() -> None:
    plain = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    scaled = [layer.name for layer in backbones.build("EfficientNetB0", 32).layers]
    assert len(scaled) == len(plain.layers) + 1
    assert scaled[1:4] == ["rescaling", "normalization", "rescaling_1"]
