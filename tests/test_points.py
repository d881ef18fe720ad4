"""The named settings: allowed values, of settings that there are."""

from pathlib import Path

import pytest
import yaml

from bench.point import POINTS, settings
from stages import params
from tests.conftest import PROJECT

NAMES = list(yaml.safe_load(POINTS.read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_each_has_every_setting_but_digests_at_an_allowed_value(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    content = yaml.safe_load((PROJECT / "params.yaml").read_text())
    keys = {f"{s}.{key}" for s, values in content.items() for key in values if key != "sha256"}
    assert set(settings(name)) == keys
    for setting, value in settings(name).items():
        section, key = setting.split(".")
        content[section][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    params.load(tmp_path / "params.yaml")
