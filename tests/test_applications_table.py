"""The table of applications says what Keras says, is checked before any work, and is printed."""

import importlib
import subprocess
import sys
from pathlib import Path
from unittest import mock

import keras
import pytest
import yaml
from keras.src.applications import imagenet_utils

from stages.transfer import applications
from stages.transfer.applications import APPLICATIONS
from stages.transfer.errors import PipelineError
from stages.transfer.params import load
from tests.conftest import PROJECT


def test_the_table_names_every_constructor_in_keras() -> None:
    public = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(APPLICATIONS) == public
    assert len(APPLICATIONS) == 40


@pytest.mark.parametrize("name", APPLICATIONS)
def test_sizes_are_those_of_keras(name: str) -> None:
    application = APPLICATIONS[name]
    module = importlib.import_module(f"keras.applications.{application.module}")
    constructor = getattr(keras.applications, name)
    assert getattr(module, name, constructor) is constructor  # mobilenet_v3 does not name them
    size = application.minimum_size - 1
    with pytest.raises(ValueError, match="at least"):
        constructor(include_top=False, weights=None, input_shape=(size, size, 3))


@pytest.mark.parametrize("name", APPLICATIONS)
def test_native_size_is_that_of_keras(name: str) -> None:
    class Asked(Exception):  # noqa: N818
        pass

    def stop(*_: object, default_size: int, **__: object) -> None:
        raise Asked(default_size)

    if APPLICATIONS[name].family == "MobileNetV3":  # has no such setting; its files say 224
        assert APPLICATIONS[name].native_size == 224
        return
    with mock.patch.object(imagenet_utils, "obtain_input_shape", stop):
        with pytest.raises(Asked) as asked:
            getattr(keras.applications, name)(weights=None)
        assert asked.value.args == (APPLICATIONS[name].native_size,)


def test_one_that_is_refused_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is, on this version of Keras."""
    assert not any(application.refused for application in APPLICATIONS.values())
    refused = APPLICATIONS["VGG16"]._replace(refused="too large for its time")
    monkeypatch.setitem(APPLICATIONS, "VGG16", refused)
    settings = yaml.safe_load((PROJECT / "params.yaml").read_text())
    settings["backbone"]["name"] = "VGG16"
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(PipelineError, match=r"'VGG16': .* not serve it: too large for its time"):
        load(path)
    settings["backbone"]["name"] = "VGG17"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(PipelineError, match="nearest: VGG19, "):
        load(path)
    assert "refused: too large for its time" in "\n".join(applications.lines())


def test_the_table_is_printed_without_tensorflow() -> None:
    code = (
        "import sys, stages.transfer.applications as a; print(*a.lines(), sep='\\n');"
        "sys.exit(not {'keras', 'tensorflow', 'numpy'}.isdisjoint(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    heading, *rows = run.stdout.splitlines()
    assert heading.split()[:5] == ["name", "family", "minimum", "native", "preprocessing"]
    assert [row.split()[0] for row in rows] == list(APPLICATIONS)
    assert max(map(len, rows)) <= 120
