"""params.yaml: every mistake costs one line that names it, before any work."""

import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import load_yaml, loads_yaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages import params
from stages.errors import PipelineError
from stages.runtime import description
from tests.conftest import ALL, PROJECT

TEXT = (PROJECT / "params.yaml").read_text()
VALID = loads_yaml(TEXT)  # as DVC reads it
KEYS = [(section, key) for section, values in VALID.items() for key in values]


def mistake(path: Path, content: Any) -> str:
    """Return the one line that is said of a file; text is written as it is."""
    if isinstance(content, str):
        path.write_text(content)
    else:
        YAML().dump(content, path)
    with pytest.raises(PipelineError) as error:
        params.load(path)
    assert str(error.value).isprintable()
    return str(error.value)


def changed(section: str, key: str, value: Any) -> dict[str, Any]:
    return VALID | {section: VALID[section] | {key: value}}


def replaced(key: str, text: str) -> str:
    return re.sub(rf"(?m)^  {key}: .*", f"  {key}: {text}", TEXT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def test_the_projects_own_file_is_valid() -> None:
    assert params.load(PROJECT / "params.yaml").model_dump() == VALID


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("fine_tune", "epochs", -1, "fine_tune.epochs = -1: expected greater than or equal to 0"),
        ("fine_tune", "epochs", True, "fine_tune.epochs = True: expected a valid integer"),
        ("fine_tune", "learning_rate", "fast", "fine_tune.learning_rate = 'fast': expected a val"),
        ("fine_tune", "learning_rate", float("nan"), "fine_tune.learning_rate = nan: expected"),
        ("fine_tune", "learning_rate", 0, "fine_tune.learning_rate = 0: expected greater than 0"),
        ("fine_tune", "epoch", 3, "unknown key fine_tune.epoch; nearest: fine_tune.epochs"),
        ("fine_tune", "batch_norm", "freeze", "expected 'frozen' or 'adapting'"),
        ("fine_tune", "test_time_flip", 1, "fine_tune.test_time_flip = 1: expected a valid bool"),
        ("backbone", "image_size", 2000, "image_size = 2000: expected less than or equal to 1024"),
        ("backbone", "sha256", {"a": "abc"}, "backbone.sha256.a = 'abc'"),
        ("backbone", "cut", 1.5, "backbone.cut = 1.5: expected none, all, the name of a cut"),
        ("backbone", "cut", True, "backbone.cut = True: expected none"),
        ("backbone", "weights", "", "backbone.weights = ''"),
        ("data", "name", "../cats", "data.name = '../cats': String should match pattern"),
        ("data", "aspect", "stretch", "data.aspect = 'stretch': expected 'crop' or 'pad'"),
        ("features", "shift", 1.0, "features.shift = 1.0: expected less than 1"),
        ("download", "sha256", {}, "download.sha256 = {}"),
        ("evaluate", "batch_size", 10**26, "evaluate.batch_size = 1000"),
        ("gate", "minimum", 10**400, "gate.minimum = 1000"),
        ("gate", "minimum", 87, "gate.minimum = 87: expected less than or equal to 1"),
    ],
)
def test_a_mistake_names_key_value_and_what_is_allowed(
    path: Path, section: str, key: str, value: Any, said: str
) -> None:
    assert said in mistake(path, changed(section, key, value))


@given(st.sampled_from(KEYS), st.none() | st.booleans() | st.floats() | st.integers() | st.text())
def test_any_value_is_taken_or_named_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, str], value: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    YAML().dump(changed(*place, value), path)
    try:
        params.load(path)
    except PipelineError as error:
        assert str(error).isprintable()  # noqa: PT017 - both ways are right
        assert ".".join(place) in str(error)  # noqa: PT017


def test_missing_file_sections_and_keys_are_named(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"params\.yaml"):
        params.load(path)
    content = VALID | {"gate": {}, "features": 3}
    del content["evaluate"]
    said = mistake(path, content)
    assert "features: expected keys with their values; " in said
    assert said.endswith("missing key evaluate; missing key gate.minimum")


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2]", "a: [", "download: 3", "\x00", "a: 2020-13-45", "[" * 1000, "a: " + "1" * 5000],
)
def test_a_file_that_is_no_mapping_of_sections_is_refused(path: Path, text: str) -> None:
    mistake(path, text)


@pytest.mark.parametrize("text", ["!!bool x", "!!timestamp x", "!!int ''", "!!float x", "&a [*a]"])
@pytest.mark.parametrize("key", ["minimum", "cut", "weights"])
def test_values_that_are_none_are_a_line(path: Path, key: str, text: str) -> None:
    mistake(path, replaced(key, text))


def test_a_key_that_stands_twice_is_refused_as_dvc_does(path: Path) -> None:
    for key, added in (("minimum", "  minimum: 0.1\n"), ("download", "download: {}\n")):
        line = len((TEXT + added).splitlines())  # gate is the last section
        said = mistake(path, TEXT + added)
        assert re.search(f'found duplicate key "{key}" .* in line {line}$', said)


@pytest.mark.parametrize(
    ("text", "value"), [("010", 10), ("0o10", 8), ("1e3", None), ("1:30", None), ("0x10", 16)]
)
def test_a_number_is_what_dvc_takes_it_for(path: Path, text: str, value: int | None) -> None:
    """In YAML 1.1, 010 is eight and 1:30 is ninety: dvc.lock would not say what was run."""
    path.write_text(replaced("images", text))
    recorded = load_yaml(str(path))["train_head"]["images"]
    if value is None:
        assert f"train_head.images = {recorded!r}: " in mistake(path, path.read_text())
    else:
        assert params.load(path).train_head.images == value == recorded


def test_a_rate_without_a_dot_is_a_number(path: Path) -> None:
    path.write_text(replaced("learning_rate", "1e-3"))
    assert params.load(path).fine_tune.learning_rate == 0.001


def test_the_settings_of_a_stage_are_those_that_dvc_yaml_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(PROJECT)
    settings = params.of_stage("features", params.load())
    assert settings["backbone.cut"] == VALID["backbone"]["cut"]
    assert settings["features"] == VALID["features"]
    assert list(settings) == params.definition("features")["params"]


def test_the_fingerprint_differs_when_anything_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PROJECT / "dvc.yaml", "dvc.yaml")
    for path in map(Path, params.definition("fine_tune")["deps"]):
        file = path if path.suffix else path / "a.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("as it was")

    def now(section: str = "gate", **changes: object) -> str:
        changed = getattr(ALL, section).model_copy(update=changes)
        given = ALL.model_copy(update={section: changed})
        return params.fingerprint("fine_tune", given, description())

    assert now() == now("gate", minimum=0.123)  # fine-tuning does not depend on it
    prints = [now(), now("fine_tune", seed=9)]
    for path in (p for p in tmp_path.rglob("*") if p.is_file() and p.name != "dvc.yaml"):
        path.write_text("as it is now")
        prints.append(now())
    Path("stages/training/new.py").touch()
    prints.append(now())
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    prints.append(now())
    versions = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    for name in versions:
        monkeypatch.setattr("importlib.metadata.version", (versions | {name: "0.1"}).get)
        prints.append(now())
    assert len(set(prints)) == len(prints) > 12
