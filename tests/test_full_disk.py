"""A full disk and a folder that cannot be written, for real: one line, and nothing is lost."""

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.transfer import faults
from tests.conftest import Project, one_line
from tests.test_interruption import OURS, finish, outputs

ROOM = 2**30  # bytes; the project takes a quarter of it
OUTS = {
    "download": ["data/raw/cifar-10-python.tar.gz"],
    "backbone": ["data/backbone/backbone.weights.h5"],
    "preprocess": ["data/processed/cifar10.npz"],
    "features": [f"data/features/{name}.npy" for name in ("train_view0", "train_view1", "dev")],
    "train_head": ["data/head/head.npz", "data/head/curve.csv"],
    "fine_tune": ["cifar10.h5", "data/fine_tune/curve.csv"],
    "evaluate": ["data/evaluate/confusion.csv", "metrics.json"],
}


def run_or_skip(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"not possible here: {' '.join(command)}: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something on a folder; skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    run_or_skip("mount", *options, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Iterator[Project]:
    """A finished project on a small disk of its own."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs"):
        yield finished.copy(tmp_path / "disk")


@contextlib.contextmanager
def full(project: Project, left: int) -> Iterator[None]:
    """Fill a project's disk up to a number of bytes, in whole blocks."""
    filler = project.folder.parent / "filler"
    with filler.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(project.folder).free - left)
    try:
        yield
    finally:
        filler.unlink()


def digests(project: Project, stage: str) -> list[str]:
    paths = [project.folder / out for out in OUTS[stage]]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def remove_outs(project: Project, stage: str) -> int:
    """Remove a stage's outputs, as DVC does before it; return how many bytes the first had."""
    sizes = [(project.folder / out).stat().st_size for out in OUTS[stage]]
    for out in OUTS[stage]:
        (project.folder / out).unlink()
    shutil.rmtree(project.folder / "data/checkpoints", ignore_errors=True)
    return sizes[0]


def left_behind(project: Project, stage: str) -> list[str]:
    """Return what a failed stage has left: outputs, and halves of them."""
    halves = [str(path) for path in project.folder.rglob(".partial-*")]
    return halves + [out for out in OUTS[stage] if (project.folder / out).exists()]


@pytest.mark.faults
@pytest.mark.parametrize("stage", OURS)
def test_a_disk_that_fills_up_is_one_line_and_nothing_half_written(
    project: Project, stage: str
) -> None:
    whole = digests(project, stage)
    if stage == "train_head":  # it links the features, which frees the space that it then needs
        assert project.stage(stage).returncode == 0
    size = remove_outs(project, stage)
    for left in {0, size // 2 // 4096 * 4096, max(size - 4096, 0) // 4096 * 4096}:
        with full(project, left):
            line = one_line(project.stage(stage))
        assert "No space left on device" in line or "are free on the disk" in line
        assert line.startswith("error: ")
        assert str(Path(OUTS[stage][0]).parent) in line or "data/checkpoints" in line, line
        assert "free some space, then run `dvc repro`" in line
        # One of two small outputs may have found room.
        assert set(left_behind(project, stage)) <= set(OUTS[stage][:1] if left else [])
    assert project.stage(stage).returncode == 0
    assert digests(project, stage) == whole


@pytest.mark.faults
def test_outputs_that_dvc_removed_come_back_with_dvc_checkout(project: Project) -> None:
    expected = outputs(project)
    before = digests(project, "fine_tune")
    project.set(fine_tune={"learning_rate": 0.002})  # so that DVC removes them, and runs the stage
    with full(project, 2**20):
        result = project.dvc("repro", "fine_tune")
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "No space left on device; free some space, then run `dvc repro`; `dvc checkout`" in line
    assert "Traceback" not in result.stdout + result.stderr
    assert left_behind(project, "fine_tune") == []
    result = project.dvc("checkout")
    assert result.returncode == 0, result.stderr
    assert digests(project, "fine_tune") == before
    project.set(fine_tune={"learning_rate": 0.001})
    finish(project, expected)


@contextlib.contextmanager
def read_only_mount(folder: Path) -> Iterator[None]:
    with mounted(folder, "--bind", str(folder)):
        run_or_skip("mount", "-o", "remount,bind,ro", str(folder))
        yield


@contextlib.contextmanager
def immutable(folder: Path) -> Iterator[None]:
    run_or_skip("chattr", "-R", "+i", str(folder))
    try:
        yield
    finally:
        subprocess.run(["chattr", "-R", "-i", str(folder)], check=True)


@contextlib.contextmanager
def without_write_bit(folder: Path) -> Iterator[None]:
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for each in folders:
        each.chmod(0o555)
    try:
        yield
    finally:
        for each in folders:
            each.chmod(0o755)


def check_forbidden(
    project: Project, stage: str, forbidden: Callable[[Path], contextlib.AbstractContextManager]
) -> None:
    folder = project.folder / Path(OUTS[stage][0]).parent
    before = digests(project, stage)
    if stage in ("features", "fine_tune"):  # the first thing that they write is a checkpoint
        folder = project.folder / "data"
    command = [sys.executable, "-m", "stages", stage]
    if os.geteuid() == 0:  # and may write all the same, unless it gives that up
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    with forbidden(folder):
        line = one_line(project.run(*command))
    assert "let this user write there, then run `dvc repro`" in line
    assert any(os.strerror(number) in line for number in faults.FORBIDDEN)
    assert str(folder.relative_to(project.folder)) in line
    assert digests(project, stage) == before  # what stood there is left as it was
    assert not list(project.folder.rglob(".partial-*"))


@pytest.mark.faults
@pytest.mark.parametrize("forbidden", [read_only_mount, immutable, without_write_bit])
def test_a_folder_that_cannot_be_written_is_one_line(
    finished: Project,
    tmp_path: Path,
    forbidden: Callable[[Path], contextlib.AbstractContextManager],
) -> None:
    project = finished.copy(tmp_path)
    for stage in OURS:
        check_forbidden(project, stage, forbidden)


def test_a_disk_that_cannot_hold_the_archive_is_one_line(project: Project) -> None:
    """The quickest of the stages; the slow tests try all of them."""
    remove_outs(project, "download")
    with full(project, 0):
        line = one_line(project.stage("download"))
    assert "data/raw/" in line
    assert "No space left on device; free some space, then run `dvc repro`" in line
    assert left_behind(project, "download") == []


@pytest.mark.parametrize(
    ("error", "under_dvc", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "data/head/head.npz"),
            True,
            "data/head/head.npz: No space left on device; free some space, then run `dvc repro`; "
            "`dvc checkout` brings back the outputs that DVC removed before this stage",
        ),
        (
            PermissionError(errno.EROFS, "Read-only file system", "data/a"),
            False,
            "data/a: Read-only file system; let this user write there, then run `dvc repro`",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            False,
            "standard output or a temporary file: No space left on device; free some space, then "
            "run `dvc repro`",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            False,
            "standard output or a temporary file: No usable temporary directory found in "
            "['/tmp']; put that right, then run `dvc repro`",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "data/a"),
            True,
            "data/a is missing; run `dvc repro`",
        ),
        (
            OSError("two\nlines"),
            False,
            "standard output or a temporary file: two lines; put that right, then run `dvc repro`",
        ),
    ],
)
def test_what_is_said_of_an_error_of_the_system(error: OSError, under_dvc: bool, line: str) -> None:
    assert faults.line(error, under_dvc) == line
