"""The named points: each is a set of settings that params.yaml allows."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.transfer import params, points
from stages.transfer.errors import PipelineError
from tests.conftest import PROJECT

NAMES = list(yaml.safe_load(points.POINTS.read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_each_point_is_allowed_and_names_all_that_differs(name: str, tmp_path: Path) -> None:
    content = yaml.safe_load((PROJECT / "params.yaml").read_text())
    keys = []
    for setting in points.settings(name):
        key, value = setting.split("=")
        section, _, own = key.partition(".")
        assert name != "default" or content[section][own] == yaml.safe_load(value)
        content[section][own] = yaml.safe_load(value)
        keys.append(key)
    assert keys == [setting.split("=")[0] for setting in points.settings("default")]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    params.load(tmp_path / "params.yaml")


def test_an_unknown_point_is_named() -> None:
    expected = "POINT = 'fast': expected one of default, accurate, quick, fastest"
    with pytest.raises(PipelineError, match=expected):
        points.settings("fast")


@pytest.mark.parametrize(("arguments", "status"), [(["fastest"], 0), (["fast"], 1), ([], 1)])
def test_they_are_printed_as_options(arguments: list[str], status: int) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "stages.transfer.command", "point", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status
    assert len((run.stdout + run.stderr).splitlines()) == 1
    assert run.stdout.startswith("-S ") == (status == 0)
