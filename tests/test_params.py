"""params.yaml: every mistake costs one line that names it, before any work."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import load_yaml

from stages.transfer import params
from stages.transfer.errors import PipelineError
from tests.conftest import PROJECT, Project, one_line

VALID = yaml.safe_load((PROJECT / "params.yaml").read_text())


def changed(tmp_path: Path, section: str, key: str, value: Any) -> Path:
    content = yaml.safe_load((PROJECT / "params.yaml").read_text())
    content[section][key] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_projects_own_file_is_valid() -> None:
    loaded = params.load(PROJECT / "params.yaml")
    assert loaded.model_dump() == VALID


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("fine_tune", "epochs", -1, "fine_tune.epochs = -1: expected greater than or equal to 0"),
        ("fine_tune", "epochs", 1.5, "fine_tune.epochs = 1.5: expected a valid integer"),
        ("fine_tune", "epochs", True, "fine_tune.epochs = True: expected a valid integer"),
        ("fine_tune", "learning_rate", "fast", "fine_tune.learning_rate = 'fast': expected a num"),
        ("fine_tune", "learning_rate", float("nan"), "fine_tune.learning_rate = nan: expected"),
        ("fine_tune", "learning_rate", 0, "fine_tune.learning_rate = 0: expected greater than 0"),
        ("fine_tune", "epoch", 3, "unknown key fine_tune.epoch; nearest: fine_tune.epochs"),
        ("backbone", "name", "MobilNetV2", "lists them); nearest: MobileNetV2, MobileNet, "),
        ("backbone", "name", "preprocess_input", "backbone.name = 'preprocess_input'"),
        ("backbone", "image_size", 16, "backbone.image_size = 16: MobileNetV2 needs at least 32"),
        ("backbone", "sha256", ["abc"], "backbone.sha256.0 = 'abc'"),
        ("download", "sha256", [], "download.sha256 = []"),
        ("gate", "minimum", 10**400, "gate.minimum = 1000"),
        ("evaluate", "batch_size", 10**26, "evaluate.batch_size = 1000"),
        ("backbone", "cut", 1.5, "backbone.cut = 1.5: expected auto, none, all, the name of a cut"),
        ("backbone", "cut", "1.5", "backbone.cut = '1.5': expected auto"),
        ("backbone", "cut", True, "backbone.cut = True: expected auto"),
        ("backbone", "cut", None, "backbone.cut = None: expected auto"),
        ("backbone", "weights", "", "backbone.weights = ''"),
        ("fine_tune", "batch_norm", "freeze", "expected 'frozen', 'adapting' or 're-estimated'"),
        ("fine_tune", "test_time_flip", 1, "fine_tune.test_time_flip = 1: expected a valid bool"),
        ("fine_tune", "cutmix_share", 2, "fine_tune.cutmix_share = 2: expected less than or eq"),
        ("gate", "minimum", None, "gate.minimum = None: expected a number"),
        ("gate", "minimum", 87, "gate.minimum = 87: expected less than or equal to 1"),
    ],
)
def test_a_mistake_names_key_value_and_what_is_allowed(
    tmp_path: Path, section: str, key: str, value: Any, said: str
) -> None:
    with pytest.raises(PipelineError, match=re.escape(said)) as error:
        params.load(changed(tmp_path, section, key, value))
    assert "\n" not in str(error.value)


def test_a_section_without_keys_is_told_which_it_has(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(VALID | {"evaluate": None, "features": 3}))
    with pytest.raises(PipelineError) as error:
        params.load(path)
    assert "features = 3: expected views, shift, batch_size, seed, each with" in str(error.value)
    assert "evaluate = None: expected batch_size, each with its value" in str(error.value)


def test_a_share_in_quotes_is_a_share(tmp_path: Path) -> None:
    assert params.load(changed(tmp_path, "backbone", "cut", "0.5")).backbone.cut == 0.5


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2]", "a: [", "download: 3", "\x00", "a: 2020-13-45", "[" * 3000, "a: " + "1" * 5000],
)
def test_a_file_that_is_no_mapping_of_sections_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as error:
        params.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("  minimum: 0.1\n", "found duplicate key .minimum."),
        ("download: {}\n", "found duplicate key .download."),
    ],
)
def test_a_key_that_stands_twice_is_refused_as_dvc_does(
    tmp_path: Path, added: str, said: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(VALID, sort_keys=False) + added)  # gate is the last section
    line = len(path.read_text().splitlines())
    with pytest.raises(PipelineError, match=f"{said} .* in line {line}$"):
        params.load(path)


@pytest.mark.parametrize(
    ("text", "value"), [("010", 10), ("0o10", 8), ("1e3", None), ("1:30", None), ("0x10", 16)]
)
def test_a_number_is_what_dvc_takes_it_for(tmp_path: Path, text: str, value: int | None) -> None:
    """PyYAML's 010 is eight, its 1:30 is ninety: dvc.lock would not say what was run."""
    path = tmp_path / "params.yaml"
    path.write_text(re.sub("images: .*", f"images: {text}", (PROJECT / "params.yaml").read_text()))
    recorded = load_yaml(str(path))["train_head"]["images"]
    if value is None:
        with pytest.raises(PipelineError, match=re.escape(f"train_head.images = {recorded!r}: ")):
            params.load(path)
    else:
        assert params.load(path).train_head.images == value == recorded


@pytest.mark.parametrize(
    "text", ["!!bool x", "!!timestamp x", "!!int ''", "!!float x", "0x" + "f" * 5000, "&a [*a]"]
)
@pytest.mark.parametrize("key", ["minimum", "cut", "weights", "dev_fraction"])
def test_values_that_are_none_are_a_line(tmp_path: Path, key: str, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        re.sub(f"  {key}: .*", f"  {key}: {text}", (PROJECT / "params.yaml").read_text())
    )
    with pytest.raises(PipelineError) as error:
        params.load(path)
    assert "\n" not in str(error.value)


def test_missing_file_and_missing_key_are_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"params.yaml: cannot be read"):
        params.load(tmp_path / "params.yaml")
    content = {name: dict(section) for name, section in VALID.items()}
    del content["gate"]["minimum"], content["evaluate"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(PipelineError, match=r"missing key evaluate; missing key gate\.minimum"):
        params.load(tmp_path / "params.yaml")


def test_a_rate_without_a_dot_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = (PROJECT / "params.yaml").read_text()
    path.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 1e-3", text))
    assert params.load(path).fine_tune.learning_rate == 0.001


def test_every_stage_checks_the_whole_file_first(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path)
    project.set(gate={"minimun": 0.9})
    for stage in ("check", "download", "gate"):
        said = one_line(project.stage(stage))
        assert said == "error: params.yaml: unknown key gate.minimun; nearest: gate.minimum"
    assert not (project.folder / "data/raw").exists()


def test_an_unknown_stage_is_named(fresh: Project) -> None:
    assert "error: train: expected check or one of download" in one_line(fresh.stage("train"))
