"""What one clone has computed another takes from a remote: a folder, or a server that speaks S3."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import Project
from tests.test_users_check import accuracy_of_the_check


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server that has a bucket, `shared`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", "us-east-1", endpoint_url=address).create_bucket(Bucket="shared")
    yield address
    server.stop()


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


def test_a_clone_pulls_from_s3_what_another_pushed(
    finished: Project, endpoint: str, tmp_path: Path
) -> None:
    add = "dvc remote add --local -d storage s3://shared/cifar10"
    puller = share(
        finished, tmp_path, add, f"dvc remote modify --local storage endpointurl {endpoint}"
    )
    assert puller.repro() == []


def test_the_model_is_fetched_by_name_at_a_version(project: Project, tmp_path: Path) -> None:
    """From a repository that names no remote, and without Studio."""
    remote, elsewhere = tmp_path / "remote", Project(tmp_path / "elsewhere", tmp_path)
    elsewhere.folder.mkdir()
    succeed(
        project,
        "git tag -a -m first cifar10@v1.0.0",  # DVC sees annotated tags only
        f"git clone -q --bare . {tmp_path}/published.git",
        f"dvc remote add --local storage {remote}",
        "dvc push -r storage cifar10.h5",
    )
    get = f"dvc artifacts get {tmp_path}/published.git cifar10 --remote storage"
    succeed(elsewhere, f"{get} --remote-config url={remote} --rev v1.0.0")
    model = elsewhere.folder / "cifar10.h5"
    assert model.read_bytes() == (project.folder / "cifar10.h5").read_bytes()
