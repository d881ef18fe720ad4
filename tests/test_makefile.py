"""The Makefile: what it hands to a shell, and when it makes the environment anew."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT

# Prints how it was called, and copies itself into the environment that it is told to make.
STUB = """#!/bin/sh
case "$*" in
    "-m venv --clear .venv") rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
exec "$TESTS_PYTHON" -S -c \
    'import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))' "$@"
"""
STRANGE = "a b,(c)'d\"$e$(f)&#%"


class Folder:
    """A project of which only the Makefile is real."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python = path / "my pythons" / "python3"
        self.python.parent.mkdir(parents=True)
        self.python.write_text(STUB)
        self.python.chmod(0o755)
        shutil.copy(PROJECT / "Makefile", path)
        for lock in ("requirements.txt", "requirements-dev.txt"):
            (path / lock).touch()

    def make(self, *arguments: str, **environment: str) -> list[tuple[list[str], dict[str, str]]]:
        """Run make; return the arguments and the environment of each call of Python."""
        given: dict[str, Any] = {"PATH": os.environ["PATH"], "PYTHON": str(self.python)}
        done = subprocess.run(
            ["make", *arguments],
            cwd=self.path,
            env=given | {"TESTS_PYTHON": sys.executable} | environment,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "project")


def makes_the_environment(calls: list[tuple[list[str], dict[str, str]]]) -> bool:
    return any("venv" in arguments for arguments, _ in calls)


def test_an_environment_is_made_anew_where_its_folder_was_moved(folder: Folder) -> None:
    assert makes_the_environment(folder.make("reproduce"))
    assert len(folder.make("reproduce")) == 3
    (folder.path / "requirements.txt").touch()
    calls = folder.make("reproduce")
    assert not makes_the_environment(calls)
    assert any("install" in arguments for arguments, _ in calls)
    folder.path = folder.path.rename(folder.path.with_name(STRANGE))
    folder.python = folder.path / "my pythons/python3"
    assert makes_the_environment(folder.make("test"))
    assert len(folder.make("test")) == 1
    (folder.path / ".venv/path").unlink()  # as an earlier Makefile left it
    assert makes_the_environment(folder.make("reproduce"))


def test_dvc_runs_this_environments_python(folder: Folder) -> None:
    folder.path = folder.path.rename(folder.path.with_name(STRANGE))
    folder.python = folder.path / "my pythons/python3"
    *_, (arguments, environment) = folder.make("reproduce", PATH=f"{os.environ['PATH']}:/$x")
    assert arguments[:3] == ["-m", "dvc", "metrics"]
    assert environment["PATH"] == f"{folder.path}/.venv/bin:{os.environ['PATH']}:/$x"


@pytest.mark.parametrize(
    "name",
    [
        *("photo (1).jpg", "it's.jpg", "a b.jpg", 'a"b.jpg', "a&touch made.jpg", "a;touch made;b"),
        *("a`touch made`", "$(touch made)", "$(shell touch made)", "a$b$$c", "a\\b", "a#b"),
        *("-a.jpg", "*", "~", "a\nb", "ä %s", "!"),
    ],
)
def test_any_name_of_a_photo_reaches_python_as_it_is(folder: Folder, name: str) -> None:
    folder.make(".venv/runtime")
    assert folder.make("predict", f"IMAGE={name}")[0][0] == ["predict.py", "--", name]
    assert folder.make("predict", IMAGE=name)[0][0] == ["predict.py", "--", name]
    assert not list(folder.path.glob("made*"))


def test_so_do_the_other_values(folder: Folder) -> None:
    folder.make(".venv/runtime")
    name = f"{STRANGE}`touch made`;touch made"
    assert folder.make("preset", f"PRESET={name}")[0][0] == ["-m", "bench.preset", name]
    arguments = folder.make("preset", "PRESET=photos", f"NAME={name}")[0][0]
    assert arguments == ["-m", "bench.preset", "photos", name]
    assert folder.make("verify", PRESET=name)[0][0] == ["-m", "bench.verify", name]
    assert folder.make("seeds", f"SEEDS={name}")[0][0] == ["-m", "bench.seeds", "default", name]
    assert not (folder.path / "made").exists()


def test_what_is_not_given_has_a_default(folder: Folder) -> None:
    folder.make(".venv/runtime")
    assert folder.make("predict")[0][0] == ["predict.py", "--"]
    assert folder.make("seeds", "PRESET=quick")[0][0] == ["-m", "bench.seeds", "quick", "3"]


def test_a_user_id_without_name_and_home_gets_both(folder: Folder) -> None:
    folder.make(".venv/runtime")
    home = {"HOME": str(folder.path)}
    for given in ({}, {"USER": "", "HOME": "/missing"}):
        ((_, environment),) = folder.make("test", "-o", ".venv/development", **given)
        assert environment["USER"] == str(os.getuid())
        assert environment["HOME"] == f"{folder.path}/.venv"
    ((_, environment),) = folder.make("test", "-o", ".venv/development", USER="me", **home)
    assert environment["USER"] == "me"
    assert environment["HOME"] == str(folder.path)


def test_packages_go_into_the_environment(folder: Folder) -> None:
    elsewhere = {f"PIP_{name}": "/elsewhere" for name in ("TARGET", "PREFIX", "ROOT", "PYTHON")}
    given = elsewhere | {"PYTHONPATH": "/elsewhere", "PIP_USER": "1", "PIP_INDEX_URL": "kept"}
    installs = [call for call in folder.make(".venv/development", **given) if "pip" in call[0]]
    locks = [arguments[-1] for arguments, _ in installs]
    assert locks == ["requirements.txt", "requirements-dev.txt"]
    assert all("--require-hashes" in arguments for arguments, _ in installs)
    for _, environment in installs:
        assert "/elsewhere" not in environment.values()
        assert environment["PIP_USER"] == "0"
        assert environment["PIP_INDEX_URL"] == "kept"
