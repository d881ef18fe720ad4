"""Activations: stored as they are computed, piece by piece, and read back or named."""

import tracemalloc
from pathlib import Path

import keras
import numpy as np
import pytest

from stages import params
from stages.data import activations
from stages.data.views import View
from stages.errors import PipelineError
from stages.files import mapped
from tests.conftest import PROJECT


def test_what_is_stored_is_what_the_model_gives(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    images = np.random.default_rng(1).random((25, 8, 8, 3), np.float32)
    activations.compute(model, images, tmp_path / "a.npy", batch_size=10)
    stored = mapped(tmp_path / "a.npy")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, model.predict(images, verbose=0).astype(np.float16))


def test_an_activation_beyond_float16_is_an_error(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1e5)])
    with pytest.raises(PipelineError, match=r"a: an activation of 1e\+05 does not fit float16"):
        activations.compute(model, np.ones((3, 2)), tmp_path / "a.npy", batch_size=2)


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(1000, np.float16))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(PipelineError, match=r"a\.npy: damaged \(.*; run `dvc repro`"):
        mapped(path)


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Views are made in pieces, and so are activations."""
    pooling = keras.layers.AveragePooling2D(4)
    model = keras.Sequential([keras.Input((32, 32, 3)), pooling])
    settings = params.load(PROJECT / "params.yaml").features

    def peak(count: int) -> int:
        images = np.broadcast_to(np.zeros(1, np.uint8), (count, 32, 32, 3))  # takes no memory
        tracemalloc.start()
        activations.compute(model, View(images, 1, settings), tmp_path / "a.npy", batch_size=50)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(100)  # what the first call leaves in caches
    few, many = peak(500), peak(5000)
    assert many - few < 100 * (5000 - 500)  # bytes; of an image 3,072 go in, and 384 are stored
