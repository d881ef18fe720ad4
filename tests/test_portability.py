"""The saved file in other versions of Keras: it loads, predicts the same and trains on.

Each version is installed on the JAX backend, which is light, in an environment of its own.
"""

import json
import subprocess
import venv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from stages import classifier
from stages.nets import pretrained
from stages.nets.applications import APPLICATIONS
from stages.nets.backbone import Backbone
from stages.training.head import new_head
from tests.test_applications import vary

pytestmark = pytest.mark.portability

# The oldest that reads the file, which CI tries on each change; what hosted notebooks have shipped;
# the newest; and the development version, which may break any day.
VERSIONS = ["keras==3.4.1", "keras==3.8.0", "keras==3.10.0", "keras==3.13.2", "keras"]
VERSIONS += ["keras-nightly --pre"]
PEERS = "jax[cpu]==0.4.30 numpy==1.26.4 scipy==1.13.1 h5py==3.11.0 absl-py rich namex optree"
PEERS += " ml-dtypes packaging"
# One of each preprocessing, and of each kind of layer that is rewritten.
NETS = ["MobileNetV2", "VGG16", "DenseNet121", "EfficientNetB0", "ConvNeXtTiny"]
SCRIPT = """
import keras, numpy as np
images, expected = np.load("images.npy"), np.load("expected.npy")
model = keras.models.load_model("cifar10.h5")
differences = []
for found in (np.asarray(model(images[:8])), model.predict(images, batch_size=50, verbose=0)):
    differences.append(abs(found - expected[: len(found)]).max())
assert max(differences) < 1e-5, f"probabilities differ by {differences}"
changing = [w for w in model.weights if w.trainable or "moving" in w.path]
before = [np.array(w) for w in changing]
# Compiled by JAX, a step takes minutes.
model.compile("sgd", "categorical_crossentropy", run_eagerly=True)
model.train_on_batch(images[:8], np.eye(10, dtype="float32")[:8])
moved = [(old != np.array(w)).any() for old, w in zip(before, changing)]
assert all(moved), f"a step has changed {sum(moved)} of {len(moved)} weights and moving averages"
print(f"keras {keras.__version__}: the largest difference is {max(differences):.1e}")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with JAX, to which each version of Keras comes as a folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/pip", "install", "--quiet", *PEERS.split()], check=True)
    return folder


def write_model(name: str, folder: Path) -> None:
    """Write a model with weights that tell images apart, 200 images and what it predicts here."""
    keras.utils.set_random_seed(1)
    images = np.random.default_rng(1).integers(0, 256, (200, 32, 32, 3)).astype(np.float32)
    size = APPLICATIONS[name].minimum_size
    net = pretrained.original(name, size)
    vary(net, keras.layers.Resizing(size, size)(images[:32]) / 127.5 - 1)
    net.save_weights(folder / "notop.weights.h5")
    settings: Any = SimpleNamespace(name=name, image_size=size, last_layer="all", cut="none")
    backbone = Backbone(settings, (32, 32, 3), folder / "notop.weights.h5")
    channels = net.output_shape[-1]
    head = new_head(10)
    head.build((None, channels))
    features = keras.Model(net.input, keras.layers.GlobalAveragePooling2D()(net.output))
    kernel = np.random.default_rng(2).normal(size=(channels, 10))
    kernel /= np.std(features(keras.layers.Resizing(size, size)(images[:32]) / 127.5 - 1) @ kernel)
    head.set_weights([kernel, np.zeros(10)])
    model = classifier.classifier(backbone.on_raw_images(), head, test_time_flip=True)
    classifier.save(model, folder / "cifar10.h5", "0123456789", "crop")
    np.save(folder / "images.npy", images)
    # In float64: else the rounding errors of this processor would count, too.
    config = json.dumps(model.get_config()).replace("float32", "float64")
    exact = keras.Model.from_config(json.loads(config))
    exact.set_weights(model.get_weights())
    expected = exact.predict(images, batch_size=50, verbose=0)
    assert np.ptp(expected, axis=0).max() > 0.01
    np.save(folder / "expected.npy", expected)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("version", VERSIONS)
def test_it_loads_predicts_the_same_and_trains_on(
    version: str, name: str, environment: Path, tmp_path: Path
) -> None:
    write_model(name, tmp_path)
    target = environment / version.replace(" ", "")
    if not target.exists():
        options = ["--quiet", "--no-deps", "--target", str(target), *version.split()]
        subprocess.run([environment / "bin/pip", "install", *options], check=True)
    done = subprocess.run(
        [environment / "bin/python", "-c", SCRIPT],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target), "KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
