"""The drawn images, and the small project that is made of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages.files import digest
from tests import drawn


def test_the_same_is_drawn_each_time_every_class_its_own_way(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(10), 30)
    images = drawn.draw(labels, 1)
    assert images.dtype == np.uint8
    assert images.shape == (300, 32, 32, 3)
    assert (drawn.draw(labels, 1) == images).all()
    assert (drawn.draw(labels, 2) != images).any()
    for label, name in enumerate(drawn.CLASS_NAMES):
        red, _, blue = images[labels == label].mean(axis=(0, 1, 2))
        assert (red > blue) == name.startswith("red"), name
    for copy in ("a", "b"):
        drawn.write_archive(tmp_path / copy / "drawn.tar.gz", drawn.members(3))
    assert digest(tmp_path / "a/drawn.tar.gz") == digest(tmp_path / "b/drawn.tar.gz")


def test_a_project_is_this_one_with_other_settings_and_images(tmp_path: Path) -> None:
    folder = tmp_path / "new/project"
    drawn.make_project(folder, 3, {"fine_tune": {"epochs": 7}})
    params = yaml.safe_load((folder / "params.yaml").read_text())
    ours = yaml.safe_load((drawn.PROJECT / "params.yaml").read_text())
    assert params.pop("download")["sha256"] == [digest(folder / "mirror/cifar-10-python.tar.gz")]
    assert params.pop("fine_tune") == ours.pop("fine_tune") | {"epochs": 7}
    del ours["download"]
    assert params == ours
    for name in ("dvc.yaml", "0-transfer.py", "stages/__main__.py", "stages/nets/applications.py"):
        assert (folder / name).read_bytes() == (drawn.PROJECT / name).read_bytes()
    assert not list(folder.rglob("__pycache__"))
    assert not (folder / ".git").exists()


def test_dvc_runs_the_demo_project_in_its_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "tests.drawn", str(folder)]
    said = subprocess.check_output(command, cwd=drawn.PROJECT, text=True)
    assert said.startswith("demo: 1,500 drawn images and 300 to test on")
    assert said.count("\n") == 1

    # What a user has set for all projects does not reach it.
    (tmp_path / "config").write_text(f"[cache]\n    dir = {tmp_path}/shared\n")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("MIRROR", str(folder / "mirror"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    subprocess.run(["dvc", "repro", "-q", "preprocess"], cwd=folder, check=True)
    assert (folder / "data/processed/cifar10.npz").exists()
    assert list((folder / ".dvc/cache").rglob("files/md5/*/*"))
    assert not (tmp_path / "shared").exists()
