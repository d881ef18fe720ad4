"""The saved model: it equals its parts, loads anywhere, and trains on where it is not fixed."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from stages import classifier
from stages.inference import fast
from stages.nets import pretrained
from stages.nets.preprocessing import on_raw_images
from stages.training.head import new_head

NAMES = list("abcdefghij")
IMAGES = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3)).astype(np.float32)
LOADED = """
import keras, numpy as np
model = keras.models.load_model("cifar10.h5")
images, labels = np.load("images.npy"), np.eye(10)[np.arange(8)]
np.save("probabilities.npy", model.predict(images, verbose=0))
assert model.evaluate(images, labels, verbose=0, return_dict=True).keys() == {"accuracy", "loss"}
before = {w.path: w.numpy() for w in model.weights}
model.fit(images, labels, epochs=2, verbose=0)
print(*sorted(w.path for w in model.weights if (before[w.path] == w.numpy()).all()), sep="\\n")
"""


def backbone() -> keras.Model:
    """Return a small one on raw images, with preprocessing."""
    keras.utils.set_random_seed(1)
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(6, 4, strides=4, name="conv")(image)
    net = keras.Model(image, keras.layers.BatchNormalization(name="bn")(x), name="net")
    net.get_layer("bn").set_weights(np.random.default_rng(2).uniform(1, 9, (4, 6)))
    return on_raw_images(net, "caffe", (32, 32, 3))


def head_of_numbers() -> keras.layers.Dense:
    head = new_head(10)
    head.build((None, 6))
    head.set_weights([np.random.default_rng(3).normal(0, 0.1, (6, 10)), np.arange(10) / 10])
    return head


def test_it_equals_its_parts_and_in_a_fresh_process_it_loads_and_trains_on(tmp_path: Path) -> None:
    below, head = backbone(), head_of_numbers()

    def by_hand(*images: np.ndarray) -> np.ndarray:
        features = np.mean([below(x).numpy().mean((1, 2)) for x in images], axis=0)
        return keras.ops.softmax(features @ head.kernel + head.bias).numpy()

    plain, of_both = by_hand(IMAGES), by_hand(IMAGES, IMAGES[:, :, ::-1])
    assert np.ptp(plain, axis=0).max() > 0.01
    assert abs(plain - of_both).max() > 0.001
    model = classifier.classifier(below, head, test_time_flip=False)
    np.testing.assert_allclose(model(IMAGES), plain, rtol=1e-4, atol=1e-6)

    both = classifier.classifier(below, head, test_time_flip=True)
    classifier.save(both, tmp_path / "cifar10.h5", NAMES, "crop")
    np.save(tmp_path / "images.npy", IMAGES.astype(np.uint8))
    run = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "probabilities.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, of_both, rtol=1e-4, atol=1e-6)
    assert run.stdout.split() == ["exchange_columns/kernel"]


@pytest.fixture
def loaded(tmp_path: Path) -> keras.Model:
    model = classifier.classifier(backbone(), head_of_numbers(), test_time_flip=True)
    classifier.save(model, tmp_path / "cifar10.h5", NAMES, "crop")
    return keras.models.load_model(tmp_path / "cifar10.h5")


@pytest.mark.parametrize("flip", [True, False])
def test_folded_it_predicts_the_same(flip: bool) -> None:
    model = classifier.classifier(backbone(), head_of_numbers(), test_time_flip=flip)
    before, expected = model.get_weights(), model.predict(IMAGES, verbose=0)
    folded = fast(model)
    np.testing.assert_allclose(folded.predict(IMAGES, verbose=0), expected, rtol=1e-4, atol=1e-6)
    assert not [w.path for w in folded.weights if w.path.startswith("bn/")]
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_file_names_classes_and_image_size(loaded: keras.Model, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "cifar10.h5") as file:
        assert json.loads(file.attrs["class_names"]) == NAMES
        assert tuple(file.attrs["image_size"]) == (32, 32)
        assert "aspect" not in file.attrs
    classifier.save(loaded, tmp_path / "padded.h5", NAMES, "pad")
    with h5py.File(tmp_path / "padded.h5") as file:
        assert file.attrs["aspect"] == "pad"


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")  # given as a list
def test_its_features_are_those_before_the_last_layer(loaded: keras.Model) -> None:
    features = keras.Model(loaded.inputs, loaded.layers[-2].output)(IMAGES)
    assert features.shape == (8, 6)
    last = loaded.layers[-1]
    np.testing.assert_allclose(last(features), loaded(IMAGES), rtol=1e-5)


def test_with_all_but_its_last_layer_frozen_only_that_one_is_trained(loaded: keras.Model) -> None:
    for layer in loaded.layers[:-1]:
        layer.trainable = False
    loaded.compile(keras.optimizers.Adam(0.1), "categorical_crossentropy")
    before = loaded.get_weights()
    loaded.fit(IMAGES, np.eye(10)[:8], verbose=0)
    changed = [
        w.path for w, old in zip(loaded.weights, before, strict=True) if (w != old).numpy().any()
    ]
    assert changed == ["predictions/kernel", "predictions/bias"]


def test_it_is_unfrozen_layer_by_layer() -> None:
    """As README says: TensorFlow ignores `model.trainable = True` where that is True already."""
    below = backbone()
    below.get_layer("conv").trainable = False
    model = classifier.classifier(below, head_of_numbers(), test_time_flip=True)
    for layer in model.layers:
        layer.trainable = layer.name != "exchange_columns"
    trained = {w.path.split("/")[0] for w in model.trainable_weights}
    assert trained == {"conv", "bn", "predictions"}


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")  # given as a list
def test_grad_cam_finds_the_layer_and_its_gradient(loaded: keras.Model) -> None:
    """As https://keras.io/examples/vision/grad_cam/ does."""
    loaded.layers[-1].activation = None
    outputs = [loaded.get_layer("bn").output, loaded.output]
    grad_model = keras.Model(loaded.inputs, outputs)
    with tf.GradientTape() as tape:
        maps, predictions = grad_model(IMAGES[:1])
        score = predictions[:, tf.argmax(predictions[0])]
    gradient = tape.gradient(score, maps)
    assert gradient.shape == (1, 8, 8, 6)
    assert abs(gradient.numpy()).max() > 0


def test_what_restates_a_default_is_not_written_and_the_rest_is() -> None:
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
    zeros = {"module": "keras.initializers", "class_name": "Zeros", "config": {}}
    config = {"units": 3, "use_bias": False, "quantization_config": None, "dtype": policy}
    config["bias_initializer"] = zeros
    node = {"args": [], "kwargs": {"training": True, "mask": None}}
    found = classifier.portable(
        [{"class_name": "Dense", "config": config, "inbound_nodes": [node]}, {"class_name": "Mine"}]
    )
    kept = {"units": 3, "use_bias": False, "dtype": "float32", "bias_initializer": zeros}
    nodes = [{"args": [], "kwargs": {"mask": None}}]
    dense = {"class_name": "Dense", "config": kept, "inbound_nodes": nodes}
    assert found == [dense, {"class_name": "Mine"}]


@pytest.mark.parametrize(
    "save",
    [
        partial(classifier.save, class_names=NAMES, aspect="crop"),
        partial(pretrained.save_weights, source=""),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_and_leaves_the_old_one(
    save: Callable[[keras.Model, Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.weights.h5"
    path.write_bytes(b"as before")
    model = classifier.classifier(backbone(), head_of_numbers(), test_time_flip=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # a write beyond it fails
    try:
        with pytest.raises(OSError, match=r"a\.weights\.h5"):
            save(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"as before"
    assert list(tmp_path.iterdir()) == [path]
