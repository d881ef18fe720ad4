"""Measures agree with Keras; the gate fails closed."""

import json
import math
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


NUMBERS = st.floats().map(json.dumps) | st.sampled_from(
    [
        *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "-0", "1.0000000000000001"),
        *(str(10**400), "9" * 5000, "01", "0x1", "1.", ".5", "1_0", "0.5", "1", "0", "true"),
        *("null", '"1"'),
    ]
)
KEYS = st.sampled_from(["val_accuracy", "Val_accuracy", "val_accuracy ", "val\\u005faccuracy", "a"])
LITERALS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(KEYS, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f'"{key}": {value}' for key, value in pairs) + "}"
        )
    ),
    max_leaves=6,
)
PASSING = '{"val_accuracy": %s, "val_loss": 0.4, "class_accuracy": {"cat": 0.9}}'
FILES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda content: json.dumps({"val_accuracy": content}).encode()),
    LITERALS.map(str.encode),
    LITERALS.map(lambda value: (PASSING % value).encode()),
    st.lists(NUMBERS, min_size=2, max_size=3).map(
        lambda values: ("{" + ",".join(f'"val_accuracy": {v}' for v in values) + "}").encode()
    ),
    st.tuples(
        st.sampled_from(["utf-8-sig", "utf-16", "utf-32", "utf-7", "utf-8"]),
        st.integers(0, 60),
        st.binary(max_size=3),
    ).map(lambda parts: inserted((PASSING % "0.99").encode(parts[0]), *parts[1:])),
    st.integers(1, 100_000).map(lambda depth: b"[" * depth + b"]" * depth),
    st.integers(1, 100_000).map(lambda depth: b'{"val_accuracy":' * depth + b"1" + b"}" * depth),
)


def inserted(whole: bytes, place: int, new: bytes) -> bytes:
    return whole[:place] + new + whole[place:]


def passes_by_right(content: bytes) -> bool:
    """Say whether a file may pass a gate of 0: every key is looked at."""
    try:
        found = json.JSONDecoder(object_pairs_hook=list).decode(content.decode())
    except (ValueError, RecursionError):
        return False
    pairs = [pair for pair in found if isinstance(pair, tuple)] if isinstance(found, list) else []
    values = [value for key, value in pairs if key == "val_accuracy"]
    return len(values) == 1 and type(values[0]) in (int, float) and 0 <= values[0] <= 1


def malformed_files(count: int, metrics: Path) -> None:
    @settings(max_examples=count)
    @given(content=FILES)
    def check(content: bytes) -> None:
        metrics.write_bytes(content)
        try:
            passed, said = True, measures.verdict(metrics, 0.0)
        except PipelineError as error:
            passed, said = False, str(error)
        assert not passed or passes_by_right(content)
        assert said.startswith("gate: passed" if passed else "gate: FAILED")
        assert said.isprintable()
        assert len(said) < 500

    check()


def test_the_gate_fails_on_whatever_is_no_share(metrics: Path) -> None:
    malformed_files(200, metrics)


@pytest.mark.faults
def test_the_gate_fails_on_malformed_files_by_the_thousand(metrics: Path) -> None:
    malformed_files(10_000, metrics)


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
        '{"val_accuracy": 0.1, "val_accuracy": 0.99}',
        '{"val_accuracy": 0.99, "val\\u005faccuracy": 0.1}',
        '{"val_accuracy": 0.99, "class_accuracy": {"cat": 1, "cat": 0}}',
        '{"val_accuracy": 1e400}',
        '{"val_accuracy": 1%s}' % ("0" * 400),
        '{"val_accuracy": 1%s}' % ("0" * 5000),
        '{"val_accuracy": -1e-300}',
        '{"val_accuracy": [0.99]}',
        '{"val_accuracy": null}',
        '\ufeff{"val_accuracy": 0.99}',
        '{"val_accuracy": 0.99} {}',
        '{"val_accuracy": 0.99',
    ],
)
def test_the_gate_fails_on_a_malformed_file(metrics: Path, content: str) -> None:
    metrics.write_text(content)
    with pytest.raises(PipelineError, match="gate: FAILED"):
        measures.verdict(metrics, 0.0)


def test_the_gate_fails_without_a_file(metrics: Path) -> None:
    with pytest.raises(PipelineError, match=r"gate: FAILED.*No such file.*dvc repro evaluate"):
        measures.verdict(metrics, 0.0)


def test_the_gate_fails_on_a_folder(metrics: Path) -> None:
    metrics.mkdir()
    with pytest.raises(PipelineError, match=r"gate: FAILED.*Is a directory"):
        measures.verdict(metrics, 0.0)


@pytest.mark.parametrize("minimum", [math.nan, math.inf, 1.1])
def test_no_accuracy_reaches_a_minimum_that_is_none(metrics: Path, minimum: float) -> None:
    metrics.write_text('{"val_accuracy": 1.0}')
    with pytest.raises(PipelineError, match="gate: FAILED"):
        measures.verdict(metrics, minimum)
