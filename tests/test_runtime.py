"""The environment: the same in every run on a machine, whatever the user's own Keras is set to."""

import json
import os
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest

from stages import runtime

PROJECT = Path(__file__).resolve().parents[1]
CODE = """
from stages.runtime import set_up
set_up(7)
import os, keras, numpy
print(keras.backend.backend(), keras.config.image_data_format(), keras.config.floatx())
print(keras.random.normal((1,)).numpy(), numpy.random.random())
print({"KERAS_MAX_EPOCHS", "TF_USE_LEGACY_KERAS"} & set(os.environ))
"""


def test_a_run_is_the_same_whatever_the_user_has_set(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(
        '{"backend": "jax", "image_data_format": "channels_first", "floatx": "float64"}'
    )

    def lines(**of_user: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", CODE],
            env=os.environ | {"PYTHONPATH": str(PROJECT)} | of_user,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()

    said = lines()
    assert json.loads(said[0]) == runtime.description()
    assert said[1] == "tensorflow channels_last float32"
    assert said[3] == "set()"
    home = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax", "KERAS_MAX_EPOCHS": "1"}
    assert lines(TF_USE_LEGACY_KERAS="1", **home) == said


def test_it_names_what_rounding_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = runtime.description()
    assert found["keras"] == metadata.version("keras")
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["device"] == "CPU" or ":GPU:" in found["device"]
    assert "PATH" not in found

    def described(cpuinfo: str) -> tuple[str, str]:
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
        found = runtime.description()
        return found["processor"], found["instructions"]

    of_two = "model name\t: A 1234\nflags\t\t: fpu avx2 avx amx_tile fma\n\nmodel name\t: Another\n"
    assert described(of_two) == ("A 1234", "amx_tile avx avx2 fma")
    assert described("Features\t: fp asimd sve bf16 crc32\n")[1] == "asimd bf16 sve"

    monkeypatch.setattr(Path, "read_text", mock.Mock(side_effect=FileNotFoundError))
    found = runtime.description()
    assert found["instructions"] == ""
    assert found["processor"]


def test_a_user_can_lower_the_number_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert runtime.description()["processors"] == 1


def test_batches_are_computed_in_parallel_and_stay_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loky.cpu_count", lambda: 2)
    monkeypatch.setattr(runtime, "gpus", list)
    both = threading.Barrier(2, timeout=60)

    def slower_first(x: np.ndarray) -> np.ndarray:
        both.wait()
        time.sleep(0.1 * (x[0] == 0))
        return x

    model = mock.Mock(predict_on_batch=slower_first)
    np.testing.assert_array_equal(runtime.predict(model, np.arange(12), 3), np.arange(12))


def test_no_more_batches_are_read_than_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loky.cpu_count", lambda: 4)
    monkeypatch.setattr(runtime, "gpus", list)
    read = iter(range(100))
    results = runtime.in_parallel(str, read)
    assert [next(results), next(results)] == ["0", "1"]
    assert next(read) <= 4 + 2


@pytest.mark.parametrize("batch_size", [1, 4, 10, 32])
def test_predicted_in_batches_outputs_are_those_of_keras(batch_size: int) -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    x = np.random.default_rng(1).normal(size=(10, 8, 8, 3)).astype(np.float16)  # as features are
    found = runtime.predict(model, x, batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
