"""Every application: the table says what Keras says, and the net, cut and joined, is Keras's own.

Two quick ones are tested always, one of each module by `pytest -m families`, which CI runs too, and
the others by `pytest -m applications`.
"""

import gc
import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
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

from stages.nets import pretrained, saved_model
from stages.nets.applications import APPLICATIONS
from stages.nets.backbone import Backbone
from stages.nets.head import new_head

SMALLEST = {a.module: a.name for a in reversed(APPLICATIONS.values())}.values()
QUICK = ("MobileNetV3Small", "VGG16")


def marks(name: str) -> list[pytest.MarkDecorator]:
    """Return when an application is tested: always, as the one of its module, or with all."""
    if name in QUICK:
        return []
    return [pytest.mark.families if name in SMALLEST else pytest.mark.applications]


EACH = [pytest.param(name, marks=marks(name)) for name in APPLICATIONS]
IMAGES = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3)).astype(np.float32)
# One fresh process loads the files that it is told to, with plain `load_model`.
LOADER = """
import sys, keras, numpy as np
images = np.load(sys.argv[1])
for path in map(str.strip, sys.stdin):
    model = keras.models.load_model(path)
    np.save(path + ".npy", model(images))
    del model
    keras.backend.clear_session()
    print("loaded", flush=True)
"""


def test_the_table_names_every_constructor_in_keras() -> None:
    assert set(APPLICATIONS) == {name for name in dir(keras.applications) if name[0].isupper()}
    assert len(APPLICATIONS) == 40


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
    with mock.patch.object(
        imagenet_utils, "obtain_input_shape", side_effect=StopIteration
    ) as asked:
        with pytest.raises(StopIteration):
            constructor(weights=None)
        assert asked.call_args.kwargs["default_size"] == application.native_size


def test_the_table_is_printed_without_tensorflow() -> None:
    code = (
        "import runpy, sys; runpy.run_module('stages.nets.applications', run_name='__main__');"
        "sys.exit(not {'keras', 'tensorflow', 'numpy'}.isdisjoint(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    _, *rows = run.stdout.splitlines()
    assert [row.split()[0] for row in rows] == list(APPLICATIONS)
    assert "Xception              71  299  tf" in rows


@pytest.fixture
def freed() -> Iterator[None]:
    yield
    keras.backend.clear_session()
    gc.collect()


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    images = tmp_path_factory.mktemp("loader") / "images.npy"
    np.save(images, IMAGES)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", LOADER, images], **pipes) as process:
        yield process


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


@pytest.mark.usefixtures("freed")
@pytest.mark.parametrize("name", EACH)
def test_the_net_is_the_one_of_keras_and_the_file_equals_the_model(
    name: str, tmp_path: Path, loader: subprocess.Popen[str]
) -> None:
    size = APPLICATIONS[name].minimum_size
    module = importlib.import_module(f"keras.applications.{APPLICATIONS[name].module}")
    resized = keras.layers.Resizing(size, size, interpolation="bilinear")(IMAGES).numpy()
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
    expected = theirs(inputs).numpy()
    del theirs

    settings: Any = SimpleNamespace(name=name, image_size=size, cut="auto")
    backbone = Backbone(settings, weights)
    activations = backbone.frozen_prefix()(IMAGES)
    pooled = expected.mean((1, 2))
    assert_equal(backbone.trainable_suffix("adapting", 0.9)(activations), expected)
    assert_equal(backbone.frozen_suffix()(activations), pooled)

    # The saved model, against its parts: NumPy on top.
    head = new_head(10)
    head.build((None, expected.shape[-1]))
    kernel = np.random.default_rng(2).normal(size=head.kernel.shape)
    kernel /= (pooled @ kernel).std()  # so that no probability is nearly 1
    head.set_weights([kernel, np.arange(10) / 10])
    exponentials = np.exp(pooled @ kernel + np.arange(10) / 10)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    joined = backbone.join(head, test_time_flip=False)
    assert_equal(joined(IMAGES), probabilities)
    path = tmp_path / "cifar10.h5"
    saved_model.save(joined, path)
    assert loader.stdin
    assert loader.stdout
    print(path, file=loader.stdin, flush=True)
    assert loader.stdout.readline() == "loaded\n"
    assert_equal(np.load(f"{path}.npy"), probabilities)
    weights.unlink()
    path.unlink()  # up to a gigabyte and a half
