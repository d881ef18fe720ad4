"""Every application in `keras.applications`: its net is Keras's own, and the pipeline serves it.

Two quick ones are tested always, the smallest of each family and the whole pipeline with it by
`pytest -m families`, which CI runs too, and the others by `pytest -m applications`.
"""

import contextlib
import gc
import importlib
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import keras
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

from stages import backbone, evaluate, features, fine_tune, preprocess, train_head
from stages.transfer import backbones, batch_norm, classifier, cuts, recipe, synthetic
from stages.transfer.applications import APPLICATIONS
from stages.transfer.builtin_layers import rewritten
from stages.transfer.params import Params, load
from stages.transfer.paths import (
    ARCHIVE,
    CONFUSION,
    DATASET,
    HEAD,
    METRICS,
    MODEL,
    WEIGHTS,
    train_view,
)
from tests.conftest import PROJECT

SMALLEST = {a.family: a.name for a in reversed(APPLICATIONS.values())}.values()
QUICK = ("MobileNetV3Small", "VGG16")


def marks(name: str) -> list[pytest.MarkDecorator]:
    """Return when an application is tested: always, as the one of its family, or with all."""
    if name in QUICK:
        return []
    return [pytest.mark.families if name in SMALLEST else pytest.mark.applications]


EACH = [pytest.param(name, marks=marks(name)) for name in APPLICATIONS]
IMAGES = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3)).astype(np.float32)
LOADER = """
import sys, keras, numpy as np
images = np.load(sys.argv[1])
for path in map(str.strip, sys.stdin):
    try:
        model = keras.models.load_model(path)
        np.save(path + ".npy", model(images))
        said = "compiled" if model.optimizer is not None else "not compiled"
    except Exception as error:
        said = repr(error)
    model = None
    keras.backend.clear_session()
    print(" ".join(said.split()), flush=True)
"""


@pytest.fixture
def freed() -> Iterator[None]:
    yield
    keras.backend.clear_session()
    gc.collect()


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """One fresh process that loads the files that it is told to, with plain `load_model`."""
    images = tmp_path_factory.mktemp("loader") / "images.npy"
    np.save(images, IMAGES)
    with subprocess.Popen(
        [sys.executable, "-c", LOADER, images],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def constructed(name: str, size: int, weights: str | None) -> keras.Model:
    with warnings.catch_warnings(action="ignore"):
        return getattr(keras.applications, name)(
            include_top=False, weights=weights, input_shape=(size, size, 3)
        )


def parameters(net: keras.Model) -> int:
    """Return how many numbers of a net can be trained."""
    return sum(weight.shape.num_elements() for weight in net.trainable_weights)


def vary(net: keras.Model, images: npt.NDArray) -> None:
    """Move all weights off their initial values, such that the net tells the images apart."""
    rng = np.random.default_rng(3)
    for layer in net._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        for weight in layer._trainable_variables:
            if len(weight.shape) == 1:  # biases, and scales that start at 1 or at 1e-6
                start = 0.0 if weight.name in ("bias", "beta") else 1.0
                weight.assign(start + 0.2 * rng.normal(size=weight.shape))
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.adapt_mean.assign([0.4, 0.5, 0.6])
            layer.adapt_variance.assign([0.2, 0.3, 0.1])
            layer.finalize_state()
    net(images, training=True)  # moving averages of these images


def assert_equal(found: Any, expected: Any) -> None:
    """Assert equality up to rounding, relative to how far the images differ from each other."""
    found, expected = np.asarray(found), np.asarray(expected)
    spread = np.ptp(expected, axis=0).max()
    assert spread > 1e-3 * np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * spread)


@pytest.mark.usefixtures("freed")
@pytest.mark.parametrize("name", EACH)
def test_the_net_is_the_one_of_keras_and_the_file_equals_the_model(
    name: str, tmp_path: Path, loader: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = APPLICATIONS[name].minimum_size
    module = importlib.import_module(f"keras.applications.{APPLICATIONS[name].module}")
    resized = keras.layers.Resizing(size, size, interpolation="bilinear")(IMAGES).numpy()
    inputs = resized
    for layer in backbones.preprocessing(APPLICATIONS[name].preprocessing):
        inputs = layer(inputs)
    inputs = np.asarray(inputs)
    # Rounded differently; a hundred layers make a thousandth of that, so ours go into both nets.
    np.testing.assert_allclose(inputs, module.preprocess_input(resized.copy()), rtol=0, atol=1e-4)

    # Keras's own net with ImageNet weights, from a file in the format that Keras publishes.
    weights = tmp_path / "notop.h5"
    random = constructed(name, size, None)
    vary(random, inputs)
    with h5py.File(weights, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, random)
    del random
    asked: list[str] = []

    def get_file(name: str, url: str, **_: object) -> Path:
        asked.extend((name, url))
        return weights

    with mock.patch.object(file_utils, "get_file", get_file):
        theirs = constructed(name, size, "imagenet")
    assert asked[0].endswith(".h5")
    assert asked[1].startswith("https://")
    expected = theirs(inputs).numpy()

    changed = []

    def watched(net: keras.Model) -> keras.Model:
        result = rewritten(net)
        changed.append(result is not net)
        return result

    monkeypatch.setattr(backbones, "rewritten", watched)
    ours = backbones.build(name, size, weights)
    assert_equal(ours(inputs), expected)
    assert changed == [bool(APPLICATIONS[name].rewritten)]
    assert parameters(ours) == parameters(theirs)
    del theirs

    # Cut in the middle; of NASNet's four cut points two are in its stem, two at its end.
    points = cuts.cut_points(ours)
    prefix, suffix = cuts.split(ours, points[(len(points) - 1) // 2])
    assert len(points) >= 4
    assert prefix.weights
    activations = prefix(inputs)
    assert_equal(suffix(activations), expected)
    assert_equal(batch_norm.for_training(suffix, "adapting", 0.9)(activations), expected)

    # The saved model, against its parts: NumPy on top.
    head = recipe.head(10)
    head.build((None, expected.shape[-1]))
    kernel = np.random.default_rng(2).normal(size=head.kernel.shape)
    logits = expected.mean((1, 2)) @ kernel
    kernel /= logits.std()  # so that no probability is nearly 1
    head.set_weights([kernel, np.arange(10) / 10])
    logits = logits / logits.std() + np.arange(10) / 10
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    joined = classifier.join(ours, name, size, head)
    assert_equal(joined(IMAGES), probabilities)
    classifier.save(joined, tmp_path / "cifar10.h5")
    assert loader.stdin
    assert loader.stdout
    print(tmp_path / "cifar10.h5", file=loader.stdin, flush=True)
    assert loader.stdout.readline() == "compiled\n"
    assert_equal(np.load(tmp_path / "cifar10.h5.npy"), probabilities)
    weights.unlink()
    (tmp_path / "cifar10.h5").unlink()  # up to a gigabyte and a half


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `preprocess` has run, on drawn images."""
    folder = tmp_path_factory.mktemp("dataset")
    (folder / ARCHIVE).parent.mkdir(parents=True)
    (folder / DATASET).parent.mkdir(parents=True)
    synthetic.write_archive(folder / ARCHIVE, synthetic.members(50))
    with contextlib.chdir(folder):
        preprocess.main(load(PROJECT / "params.yaml"))
    return folder


def run_pipeline(dataset: Path, of_backbone: dict[str, Any], **of_fine_tune: Any) -> None:
    """Run the stages from `backbone` to `evaluate` in the current folder, on drawn images."""
    for path in (DATASET, WEIGHTS, HEAD, CONFUSION):
        path.parent.mkdir(parents=True, exist_ok=True)
    DATASET.symlink_to(dataset / DATASET)
    settings = yaml.safe_load((PROJECT / "params.yaml").read_text())
    settings["backbone"] |= {"weights": "random"} | of_backbone
    settings["features"]["views"] = 1
    settings["train_head"] |= {"epochs": 1, "batch_size": 50}
    settings["fine_tune"] |= {"epochs": 1, "batch_size": 50} | of_fine_tune
    # What the checkpoints' fingerprint looks at.
    for name in ("0-transfer.py", "dvc.yaml", "requirements.txt", "stages"):
        Path(name).symlink_to(PROJECT / name)
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    params = Params.model_validate(settings)
    for stage in (backbone, features, train_head, fine_tune, evaluate):
        stage.main(params)


@pytest.mark.usefixtures("freed")
@pytest.mark.parametrize(
    ("cut", "batch_norm_mode"),
    [("none", "re-estimated"), ("none", "frozen"), ("all", "adapting"), (0.8, "adapting")],
)
def test_what_the_cut_and_the_mode_freeze_stays_as_it_was(
    cut: str | float,
    batch_norm_mode: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    of_backbone = {"name": "MobileNet", "image_size": 32, "cut": cut}
    run_pipeline(dataset, of_backbone, batch_norm=batch_norm_mode, test_time_flip=False)
    before = backbones.build("MobileNet", 32, WEIGHTS)
    after = keras.models.load_model(MODEL).get_layer(before.name)

    def changed(layer: str) -> list[bool]:
        pairs = (before.get_layer(layer).get_weights(), after.get_layer(layer).get_weights())
        return [bool((a != b).any()) for a, b in zip(*pairs, strict=True)]

    adapts = batch_norm_mode != "frozen"
    assert changed("conv1") == [cut == "none"]
    assert any(changed("conv1_bn")) == (cut == "none" and adapts)
    assert changed("conv_pw_13") == [cut != "all"]
    assert any(changed("conv_pw_13_bn")) == (cut != "all" and adapts)
    mapped = np.load(train_view(0), mmap_mode="r")
    if cut == "none":  # the images themselves, exactly
        with np.load(DATASET) as data:
            assert (mapped == data["x_train"]).all()


@pytest.mark.usefixtures("freed")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == QUICK[0] else pytest.mark.families)
        for name in SMALLEST
    ],
)
def test_the_whole_pipeline_runs(
    name: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    size = APPLICATIONS[name].minimum_size
    points = cuts.cut_points(backbones.build(name, size))
    run_pipeline(dataset, {"name": name, "image_size": size, "cut": points[len(points) * 3 // 4]})
    assert 0 <= json.loads(METRICS.read_text())["val_accuracy"] <= 1
    loaded = keras.models.load_model(MODEL)
    assert loaded.input_shape == (None, 32, 32, 3)
    assert loaded.output_shape == (None, 10)
