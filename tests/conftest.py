"""A small project on drawn images, run once under real DVC; tests change copies of it."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What a shell starts in the background ignores Ctrl-C, and so would all that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples every time, however slow the machine.
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")

PROJECT = Path(__file__).resolve().parents[1]
IMAGES_PER_BATCH = 60
SETTINGS: dict[str, dict[str, Any]] = {
    # Few variables, so that a step is quickly traced, and random features that do not vanish.
    "backbone": {"name": "VGG16", "image_size": 32, "weights": "random", "cut": "block4_pool"},
    "features": {"views": 2},
    "train_head": {"epochs": 1, "batch_size": 50, "learning_rate": 0.01},
    "fine_tune": {"epochs": 3, "batch_size": 50, "learning_rate": 0.001},
    "gate": {"minimum": 0.0},
}


class Project:
    """A copy of the pipeline in a folder of its own."""

    def __init__(self, folder: Path, mirror: Path) -> None:
        self.folder = folder
        self.mirror = mirror

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a user would whose environment is not activated."""
        path = os.pathsep.join(
            part for part in os.environ["PATH"].split(os.pathsep) if part != str(BIN)
        )
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "MIRROR": str(self.mirror), "PATH": path, **environment},
            text=True,
            capture_output=True,
            check=False,
        )

    def dvc(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(BIN / "dvc"), *arguments, **environment)

    def stage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "stages", *arguments, **environment)

    def set(self, **sections: dict[str, Any]) -> None:
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            params[section] |= values
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def copy(self, folder: Path) -> "Project":
        shutil.copytree(self.folder, folder / "project", symlinks=True)
        return Project(folder / "project", self.mirror)

    def ran(self, result: subprocess.CompletedProcess[str]) -> list[str]:
        """Return the stages that a `dvc repro` ran, in order."""
        lines = result.stdout.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]


BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in a Git repository, nothing run yet. Do not change it: copy it."""
    from stages.transfer.demo import copy_project

    root = tmp_path_factory.mktemp("fresh")
    project = Project(root / "project", root / "mirror")
    copy_project(project.folder, project.mirror, IMAGES_PER_BATCH, SETTINGS)
    (project.folder / ".dvc/config.local").unlink()
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.name", "test"],
        ["git", "config", "user.email", "test@example.com"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "start"],
    ):
        assert project.run(*command).returncode == 0
    return project


@pytest.fixture(scope="session")
def finished(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose whole pipeline has run under DVC. Do not change it: copy it."""
    project = fresh.copy(tmp_path_factory.mktemp("finished"))
    result = project.dvc("repro")
    assert result.returncode == 0, result.stdout + result.stderr
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "run")
    return project


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failed stage printed; fail if there is more or less."""
    assert result.returncode not in (0, None)
    assert "Traceback" not in result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]
