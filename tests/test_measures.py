"""Measures agree with Keras; the gate fails closed."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.transfer import measures
from stages.transfer.errors import PipelineError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def test_accuracy_and_loss_are_those_of_keras() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(10, 0.2), 500).astype(np.float32)
    labels = rng.integers(0, 10, 500)
    y = np.eye(10, dtype=np.float32)[labels]
    of_keras = keras.metrics.CategoricalAccuracy()(y, probabilities)
    assert measures.accuracy(probabilities, labels) == pytest.approx(float(of_keras), abs=1e-6)
    loss = keras.losses.CategoricalCrossentropy()(y, probabilities)
    assert measures.cross_entropy(probabilities, labels) == pytest.approx(float(loss), rel=1e-4)


def test_accuracy_of_each_class_by_hand() -> None:
    probabilities = np.eye(3)[[0, 0, 1, 1, 1]]
    of_class = measures.class_accuracy(probabilities, np.array([0, 0, 1, 1, 0]), ["a", "b", "c"])
    assert of_class == {"a": 2 / 3, "b": 1.0}


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "metrics.json"


@given(value=st.floats(0, 1), minimum=st.floats(0, 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_gate_passes_exactly_from_its_minimum_on(
    metrics: Path, value: float, minimum: float
) -> None:
    metrics.write_text(json.dumps({"val_accuracy": value}))
    if value >= minimum:
        assert "gate: passed" in measures.verdict(metrics, minimum)
    else:
        with pytest.raises(PipelineError, match="gate: FAILED"):
            measures.verdict(metrics, minimum)


@given(content=JSON.map(lambda c: json.dumps({"val_accuracy": c}).encode()) | st.binary())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_gate_fails_on_whatever_is_no_share(metrics: Path, content: bytes) -> None:
    metrics.write_bytes(content)
    try:
        value = json.loads(content)["val_accuracy"]
    except (ValueError, TypeError, KeyError):
        value = None
    if type(value) in (int, float) and 0 <= value <= 1:
        return
    with pytest.raises(PipelineError, match="gate: FAILED") as error:
        measures.verdict(metrics, 0.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "",
        '{"val_accuracy": NaN}',
        '{"val_accuracy": Infinity}',
        '{"val_accuracy": true}',
        '{"val_accuracy": "0.99"}',
        '{"val_accuracy": 89.1}',
        '{"accuracy": 0.99}',
        "[" * 100_000,
    ],
)
def test_the_gate_fails_on_a_malformed_file(metrics: Path, content: str) -> None:
    metrics.write_text(content)
    with pytest.raises(PipelineError, match="gate: FAILED"):
        measures.verdict(metrics, 0.0)


def test_the_gate_fails_without_a_file(metrics: Path) -> None:
    with pytest.raises(PipelineError, match=r"gate: FAILED.*No such file.*dvc repro evaluate"):
        measures.verdict(metrics, 0.0)
