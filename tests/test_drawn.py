"""The project that `make demo` runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import drawn


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
    assert (folder / "data/processed/images.npy").exists()
    assert list((folder / ".dvc/cache").rglob("files/md5/*/*"))
    assert not (tmp_path / "shared").exists()
