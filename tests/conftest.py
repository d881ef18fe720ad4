"""A small project on drawn images, run once under real DVC; tests change copies of it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from ruamel.yaml import YAML

import stages  # noqa: F401 - sets what TensorFlow reads from the environment
from bench.clone import change
from bench.preset import flat
from stages import params

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples every time, however slow the machine.
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")

PROJECT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LIMIT = 300  # seconds after which something hangs
IMAGES_PER_BATCH = 60
# Of a small project: what makes it quick, and all else that tests rely on, so that they pass
# whatever a user has set in params.yaml.
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"name": "cifar10", "aspect": "pad"},
    # Few variables, so that a step is quickly traced, and random features that do not vanish.
    "backbone": {
        "name": "VGG16",
        "image_size": 32,
        "weights": "random",
        "last_layer": "all",
        "cut": "block4_pool",
    },
    "preprocess": {"test_fraction": 0.15, "dev_fraction": 0.1, "seed": 1},
    "features": {"views": 2, "flip": True, "shift": 0.125, "zoom": 0.0, "seed": 1},
    "train_head": {
        "epochs": 1,
        "images": 10_000,
        "batch_size": 50,
        "learning_rate": 0.01,
        "seed": 1,
    },
    "fine_tune": {
        "epochs": 3,
        "batch_size": 50,
        "optimizer": "adamw",
        "learning_rate": 0.001,
        "cutmix_fraction": 0.0,
        "batch_norm": "adapting",
        "test_time_flip": True,
        "seed": 1,
    },
    "gate": {"minimum": 0.0},
}
ALL = params.load(PROJECT / params.PARAMS)
ALL = ALL.model_copy(
    update={name: getattr(ALL, name).model_copy(update=of) for name, of in SETTINGS.items()}
)


class Project:
    """A copy of the pipeline in a folder of its own."""

    def __init__(self, folder: Path, mirror: Path) -> None:
        self.folder = folder
        self.log = folder.parent / "log"
        self.environment = {
            **os.environ,
            "MIRROR": str(mirror),
            "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),  # as activated
            "PYTHONDONTWRITEBYTECODE": "",  # it is written, as it is where nobody forbids it
        }

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            text=True,
            capture_output=True,
            check=False,
        )

    @contextmanager
    def start(self, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Start a command in a process group of its own, as a shell does; it writes to `log`."""
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            except BaseException:  # a failed test waits for nobody
                os.killpg(process.pid, signal.SIGKILL)
                raise

    def wait_until(self, met: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not met():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def dvc(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("dvc", *arguments, **environment)

    def stage(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("python3", "-m", "stages", *arguments, **environment)

    def set(self, **sections: dict[str, Any]) -> None:
        """Change settings in params.yaml."""
        change(self.folder, flat(sections))

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro`, which has to succeed; return the stages that it ran, in order."""
        result = self.dvc("repro", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        lines = result.stdout.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def outputs(self) -> dict[str, str]:
        """Return the digest of each output, as dvc.lock has it."""
        lock = YAML().load(self.folder / "dvc.lock")
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        return {out["path"]: out["md5"] for out in outs}

    def halves(self) -> list[Path]:
        """Return what was half-written and left."""
        return list(self.folder.rglob(".partial-*"))

    def copy(self, folder: Path) -> "Project":
        shutil.copytree(self.folder, folder / "project", symlinks=True)
        return Project(folder / "project", Path(self.environment["MIRROR"]))


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in a Git repository, nothing run yet. Do not change it: copy it."""
    from tests.drawn import make_project

    folder = tmp_path_factory.mktemp("fresh") / "project"
    make_project(folder, IMAGES_PER_BATCH, SETTINGS)
    (folder / ".dvc/config.local").unlink()
    project = Project(folder, folder / "mirror")
    identity = "git config user.name test; git config user.email test@example.com"
    started = project.run("sh", "-ec", f"git init -q; {identity}; git add -A; git commit -qm start")
    assert started.returncode == 0, started.stderr
    return project


@pytest.fixture(scope="session")
def finished(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose whole pipeline has run under DVC. Do not change it: copy it."""
    project = fresh.copy(tmp_path_factory.mktemp("finished"))
    project.repro()
    assert project.run("sh", "-ec", "git add -A; git commit -qm run").returncode == 0
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A finished project to be changed."""
    return finished.copy(tmp_path)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failed stage printed; fail if there is more or less."""
    assert result.returncode not in (0, None)
    assert "Traceback" not in result.stdout
    lines = result.stderr.splitlines()
    # TensorFlow and Keras have their own to say.
    (line,) = (line for line in lines if not re.match(r"WARNING:|[IW]\d{4} ", line))
    return line
