"""The presets: allowed values, of settings that there are."""

from pathlib import Path

import pytest
import yaml

from bench.clone import change
from bench.preset import OF_THE_USER, PRESETS, settings
from stages import params
from tests.conftest import PROJECT

NAMES = list(yaml.safe_load(PRESETS.read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_each_has_every_setting_but_the_users_at_an_allowed_value(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    content = yaml.safe_load((PROJECT / "params.yaml").read_text())
    keys = {f"{s}.{key}" for s, values in content.items() for key in values if key != "sha256"}
    assert set(settings(name)) == {key for key in keys if key.split(".")[0] not in OF_THE_USER}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    change(tmp_path, settings(name))
    params.load(tmp_path / "params.yaml")
