"""The gate fails closed: it passes on a number from its minimum to 1, and on nothing else."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages import gate, params
from stages.errors import PipelineError
from tests.conftest import ALL


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "metrics.json"


def fault(minimum: float) -> str:
    """Return what the gate has against metrics.json in the current folder, "" if it passes."""
    own = params.Gate(minimum=minimum)
    try:
        gate.main(ALL.model_copy(update={"gate": own}))
    except PipelineError as error:
        said = str(error)
        assert said.startswith("gate: FAILED, ")
        assert said.isprintable()
        assert len(said) < 500
        return said
    return ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.floats(0, 1), minimum=st.floats(0, 1))
def test_it_passes_exactly_from_its_minimum_on(metrics: Path, value: float, minimum: float) -> None:
    metrics.write_text(json.dumps({"val_accuracy": value}))
    assert (not fault(minimum)) == (value >= minimum)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        '{"val_accuracy": NaN}',
        '{"val_accuracy": true}',
        '{"val_accuracy": "0.99"}',
        '{"val_accuracy": [0.99]}',
        '{"val_accuracy": 1.01}',
        '{"val_accuracy": -0.01}',
        '{"dev_accuracy": 0.99}',
        "[0.99]",
        "0.99",
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
