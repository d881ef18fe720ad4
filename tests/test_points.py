"""The named settings: each is complete, and none inherits a value from the run before it."""

from pathlib import Path

import pytest
import yaml

from stages import params
from tests.conftest import PROJECT

POINTS = yaml.safe_load((PROJECT / "bench/points.yaml").read_text())
COMMITTED = yaml.safe_load((PROJECT / "params.yaml").read_text())
SECTIONS = ("backbone", "preprocess", "features", "train_head", "fine_tune", "evaluate")


@pytest.mark.parametrize("name", POINTS)
def test_each_sets_all_that_training_depends_on_to_allowed_values(
    name: str, tmp_path: Path
) -> None:
    assert set(POINTS[name]) == {f"{s}.{key}" for s in SECTIONS for key in COMMITTED[s]}
    content = yaml.safe_load((PROJECT / "params.yaml").read_text())
    for setting, value in POINTS[name].items():
        section, key = setting.split(".")
        content[section][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    params.load(tmp_path / "params.yaml")


def test_the_default_is_what_is_committed() -> None:
    default = {f"{s}.{key}": value for s in SECTIONS for key, value in COMMITTED[s].items()}
    assert POINTS["default"] == default
    assert all(POINTS[name] != default for name in POINTS if name != "default")
