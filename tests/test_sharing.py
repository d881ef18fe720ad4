"""What one clone has computed another takes from a remote."""

import json
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.test_users_check import accuracy_of_the_check


def succeed(project: Project, *commands: str) -> None:
    for command in commands:
        result = project.run(*command.split())
        assert result.returncode == 0, result.stdout + result.stderr


def share(finished: Project, folder: Path, *remote: str) -> Project:
    """Push what a project holds to a remote; return a fresh clone that has pulled it."""
    pusher, puller = finished.copy(folder), Project(folder / "clone", folder / "no mirror")
    succeed(pusher, f"git clone -q . {puller.folder}", *remote, "dvc push")
    succeed(puller, *remote, "dvc pull")
    return puller


def test_a_clone_pulls_from_a_folder_what_another_pushed(finished: Project, tmp_path: Path) -> None:
    puller = share(finished, tmp_path, f"dvc remote add --local -d storage {tmp_path}/remote")
    assert puller.repro() == []
    measured = json.loads((puller.folder / "metrics.json").read_text())["val_accuracy"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert accuracy_of_the_check(puller.folder, elsewhere) == pytest.approx(measured, abs=5e-5)


def test_the_model_is_fetched_by_name_at_a_version(project: Project, tmp_path: Path) -> None:
    """From a repository that names no remote, and without Studio."""
    remote, elsewhere = tmp_path / "remote", Project(tmp_path / "elsewhere", tmp_path)
    elsewhere.folder.mkdir()
    succeed(
        project,
        "git tag -a -m first model@v1.0.0",  # DVC sees annotated tags only
        f"git clone -q --bare . {tmp_path}/published.git",
        f"dvc remote add --local storage {remote}",
        "dvc push -r storage cifar10.h5",
    )
    get = f"dvc artifacts get {tmp_path}/published.git model --remote storage"
    succeed(elsewhere, f"{get} --remote-config url={remote} --rev v1.0.0")
    model = elsewhere.folder / "cifar10.h5"
    assert model.read_bytes() == (project.folder / "cifar10.h5").read_bytes()
