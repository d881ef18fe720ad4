"""Activations: stored as they are computed, whole or not at all."""

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from stages.transfer import activations
from stages.transfer.errors import PipelineError


def test_what_is_stored_is_what_the_model_gives(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    images = np.random.default_rng(1).random((25, 8, 8, 3), np.float32)
    activations.compute(model, images, tmp_path / "a.npy", 10, "test")
    stored = activations.load(tmp_path / "a.npy")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, model.predict(images, verbose=0).astype(np.float16))


def test_an_activation_beyond_float16_is_an_error(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1e5)])
    with pytest.raises(PipelineError, match="does not fit float16"):
        activations.compute(model, np.ones((3, 2)), tmp_path / "a.npy", 2, "test")


def test_a_disk_that_is_too_small_is_an_error_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = keras.Sequential([keras.Input((4, 4, 2**14)), keras.layers.Identity()])
    assert activations.size(model) == 2**19
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    activations.require_space(2 * activations.size(model), tmp_path)
    with pytest.raises(OSError, match=r"features need 2 MiB, 1 MiB are free"):
        activations.require_space(4 * activations.size(model), tmp_path)
