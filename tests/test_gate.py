"""The gate fails closed: it passes on a number from its minimum to 1, and on nothing else."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages import gate, params
from stages.errors import PipelineError
from tests.conftest import PROJECT

ALL = params.load(PROJECT / "params.yaml")
PASSING = '{"val_accuracy": %s, "val_loss": 0.4, "ece": 0.01}'
# JSON's numbers, and what only looks like one.
NUMBERS = st.floats().map(json.dumps) | st.sampled_from(
    ["0", "1", "-0", "1e400", "1e-400", "1.0000000000000001", "9" * 400, "9" * 5000, "01", ".5"]
)
KEYS = st.sampled_from(["val_accuracy", "Val_accuracy", "val\\u005faccuracy", "a"])
VALUES = st.recursive(
    NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(KEYS, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f'"{key}": {value}' for key, value in pairs) + "}"
        )
    ),
    max_leaves=6,
)
FILES = st.binary(max_size=99) | (VALUES | VALUES.map(lambda value: PASSING % value)).map(
    str.encode
)


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "metrics.json"


def fault(minimum: float) -> str:
    """Return what the gate has against metrics.json in the current folder, "" if it passes."""
    own = params.Gate.model_construct(minimum=minimum)
    try:
        gate.main(ALL.model_copy(update={"gate": own}))
    except PipelineError as error:
        said = str(error)
        assert said.startswith("gate: FAILED, ")
        assert said.isprintable()
        assert len(said) < 500
        return said
    return ""


def passes_by_right(content: bytes) -> bool:
    """Say whether a file may pass a gate of 0: every key is looked at."""
    try:
        found = json.JSONDecoder(object_pairs_hook=list).decode(content.decode())
    except (ValueError, RecursionError):
        return False
    pairs = [pair for pair in found if isinstance(pair, tuple)] if isinstance(found, list) else []
    values = [value for key, value in pairs if key == "val_accuracy"]
    return len(values) == 1 and type(values[0]) in (int, float) and 0 <= values[0] <= 1


IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@IN_ONE_FOLDER
@given(value=st.floats(0, 1), minimum=st.floats(0, 1))
def test_it_passes_exactly_from_its_minimum_on(metrics: Path, value: float, minimum: float) -> None:
    metrics.write_text(json.dumps({"val_accuracy": value}))
    assert (not fault(minimum)) == (value >= minimum)


@settings(IN_ONE_FOLDER, max_examples=300)
@given(content=FILES)
def test_it_passes_on_nothing_but_a_share(metrics: Path, content: bytes) -> None:
    metrics.write_bytes(content)
    assert passes_by_right(content) or fault(0.0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        '{"val_accuracy": NaN}',
        '{"val_accuracy": true}',
        '{"val_accuracy": 0.1, "val_accuracy": 0.99}',
        '\ufeff{"val_accuracy": 0.99}',
        '{"val_accuracy": 0.99',
    ],
)
def test_it_fails_on_a_malformed_file(metrics: Path, content: str) -> None:
    metrics.write_text(content)
    assert "run `dvc repro evaluate`" in fault(0.0)


def test_it_fails_without_a_file_and_on_a_folder(metrics: Path) -> None:
    assert "No such file" in fault(0.0)
    metrics.mkdir()
    assert "Is a directory" in fault(0.0)


@pytest.mark.parametrize("minimum", [math.nan, math.inf, 1.1])
def test_no_accuracy_reaches_a_minimum_that_is_none(metrics: Path, minimum: float) -> None:
    metrics.write_text('{"val_accuracy": 1.0}')
    assert "is below gate.minimum" in fault(minimum)
