"""Every application: the table says what Keras says, and the net, cut and joined, is Keras's own.

Two quick ones are tested always, one of each module by `pytest -m families`, which CI runs too, and
the others by `pytest -m applications`.
"""

import gc
import importlib
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import h5py
import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras.src.applications import imagenet_utils
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

from stages import classifier
from stages.nets import pretrained
from stages.nets.applications import APPLICATIONS
from stages.nets.backbone import Backbone
from stages.training import layers
from stages.training.head import new_head

QUICK = ["MobileNetV3Small", "VGG16"]
OF_MODULES = {a.module: a.name for a in reversed(APPLICATIONS.values()) if a.name not in QUICK}
OTHERS = set(APPLICATIONS) - set(QUICK) - set(OF_MODULES.values())
EACH = [
    *QUICK,
    *(pytest.param(name, marks=pytest.mark.families) for name in OF_MODULES.values()),
    *(pytest.param(name, marks=pytest.mark.applications) for name in sorted(OTHERS)),
]
# For the moving averages: of six images, some variances are so small that rounding grows a lot.
MANY_IMAGES = np.random.default_rng(1).integers(0, 256, (24, 32, 32, 3)).astype(np.float32)
IMAGES = MANY_IMAGES[:6]
LOAD = """
import keras, numpy as np
np.save("probabilities.npy", keras.models.load_model("cifar10.h5")(np.load("images.npy")))
"""


def test_the_table_names_every_constructor_in_keras_and_is_printed() -> None:
    assert set(APPLICATIONS) == {name for name in dir(keras.applications) if name[0].isupper()}
    code = (
        "import runpy, sys; runpy.run_module('stages.nets.applications', run_name='__main__');"
        "sys.exit('keras' in sys.modules)"  # slow, and not needed
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    _, *rows = run.stdout.splitlines()
    assert [row.split()[0] for row in rows] == list(APPLICATIONS)
    assert "Xception              71  299  tf" in rows


@pytest.mark.parametrize("name", APPLICATIONS)
def test_module_and_sizes_are_those_of_keras(name: str) -> None:
    application = APPLICATIONS[name]
    module = importlib.import_module(f"keras.applications.{application.module}")
    constructor = getattr(keras.applications, name)
    assert getattr(module, name, constructor) is constructor  # mobilenet_v3 does not name them
    size = application.minimum_size - 1
    with pytest.raises(ValueError, match="at least"):
        constructor(include_top=False, weights=None, input_shape=(size, size, 3))
    if application.module == "mobilenet_v3":  # has no native size in its code; its files say 224
        assert application.native_size == 224
        return
    with mock.patch.object(imagenet_utils, "obtain_input_shape", side_effect=EOFError) as asked:
        with pytest.raises(EOFError):
            constructor(weights=None)
        assert asked.call_args.kwargs["default_size"] == application.native_size


def vary(net: keras.Model, inputs: npt.NDArray) -> None:
    """Move all weights off their initial values, such that the net tells the images apart."""
    rng = np.random.default_rng(3)
    for layer in net._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # the averages are to be those of inference
        for weight in layer._trainable_variables:
            if len(weight.shape) == 1:  # biases, and scales that start at 1 or at 1e-6
                # Small ones: in random residual nets rounding grows from block to block.
                start = 0.0 if weight.name in ("bias", "beta") else 0.3
                weight.assign(start + 0.06 * rng.normal(size=weight.shape))
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.adapt_mean.assign([0.4, 0.5, 0.6])
            layer.adapt_variance.assign([0.2, 0.3, 0.1])
            layer.finalize_state()
    net(inputs, training=True)  # moving averages of these images


def assert_equal(found: Any, expected: Any) -> None:
    """Assert equality up to rounding, relative to how the images differ from each other.

    By the mean over all activations: in a hundred layers of random weights single ones drift.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    difference = np.sqrt(np.mean((found - expected) ** 2))
    spread = np.sqrt(np.mean((expected - expected.mean(axis=0)) ** 2))
    assert spread > 1e-3 * np.abs(expected).max() > 0
    assert difference < 0.01 * spread


@pytest.mark.parametrize("name", EACH)
def test_the_net_is_the_one_of_keras_and_the_file_equals_the_model(
    name: str, tmp_path: Path
) -> None:
    keras.backend.clear_session()  # of the net before, up to a gigabyte and a half
    gc.collect()
    size = APPLICATIONS[name].minimum_size
    module = importlib.import_module(f"keras.applications.{APPLICATIONS[name].module}")
    resized = keras.layers.Resizing(size, size, interpolation="bilinear")(MANY_IMAGES).numpy()
    inputs = module.preprocess_input(resized)

    # Keras's own net with "ImageNet" weights, from a file in the format that Keras publishes.
    weights = tmp_path / "notop.h5"
    random = pretrained.original(name, size)
    vary(random, inputs)
    with h5py.File(weights, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, random)
    del random
    with (
        mock.patch.object(file_utils, "get_file", return_value=weights),
        warnings.catch_warnings(action="ignore"),  # that they are of another size
    ):
        theirs = getattr(keras.applications, name)(
            include_top=False, weights="imagenet", input_shape=(size, size, 3)
        )
    expected = theirs(inputs[: len(IMAGES)]).numpy()
    del theirs

    settings: Any = SimpleNamespace(name=name, image_size=size, last_layer="all", cut=0.4)
    backbone = Backbone(settings, IMAGES.shape[1:], weights)
    activations = backbone.frozen_prefix()(IMAGES)
    pooled = expected.mean((1, 2))
    suffix = layers.for_training(backbone.suffix, "adapting", 0.9)
    assert_equal(suffix(activations), expected)
    assert_equal(backbone.frozen_suffix()(activations), pooled)

    head = new_head(10)
    head.build((None, expected.shape[-1]))
    kernel = np.random.default_rng(2).normal(size=head.kernel.shape)
    kernel /= (pooled @ kernel).std()  # so that no probability is nearly 1
    head.set_weights([kernel, np.arange(10) / 10])
    probabilities = keras.ops.softmax(pooled @ kernel + np.arange(10) / 10)
    joined = classifier.classifier(backbone.on_raw_images(), head, test_time_flip=False)
    assert_equal(joined(IMAGES), probabilities)
    classifier.save(joined, tmp_path / "cifar10.h5", "0123456789", "crop")
    np.save(tmp_path / "images.npy", IMAGES)
    subprocess.run([sys.executable, "-c", LOAD], cwd=tmp_path, check=True)
    assert_equal(np.load(tmp_path / "probabilities.npy"), probabilities)
