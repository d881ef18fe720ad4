"""Outputs are finished or absent; what is damaged is named in one line."""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from stages.errors import PipelineError
from stages.files import read_arrays, reading, replacing, write_rows


def write(path: Path, text: str, folder: bool) -> None:
    if folder:
        path.mkdir()
        path /= "file"
    path.write_text(text)


@pytest.mark.parametrize("folder", [False, True])
def test_a_finished_output_takes_the_place_of_an_older_one(tmp_path: Path, folder: bool) -> None:
    place = tmp_path / "new/output.h5"
    for text in ("first", "second"):
        with replacing(place) as partial:
            assert partial.parent == place.parent
            assert partial.suffix == ".h5"
            write(partial, text, folder)
        assert (place / "file" if folder else place).read_text() == text
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("folder", [False, True])
def test_after_an_error_all_is_as_before(tmp_path: Path, folder: bool) -> None:
    place = tmp_path / "output"
    write(place, "before", folder)
    write(tmp_path / ".partial-output", "of a run that was killed", folder)
    with pytest.raises(RuntimeError, match="fault"), replacing(place) as partial:  # noqa: PT012
        write(partial, "half", folder)
        raise RuntimeError("fault")
    assert (place / "file" if folder else place).read_text() == "before"
    assert list(tmp_path.iterdir()) == [place]


def test_an_error_of_the_system_names_the_output(tmp_path: Path) -> None:
    def fault(error: OSError) -> OSError:
        with pytest.raises(OSError, match=error.strerror) as raised, replacing(tmp_path / "a"):
            raise error
        return raised.value

    full = OSError(28, "No space left on device")  # of write(), which has no name
    assert fault(full).filename == str(tmp_path / "a")
    full.filename, full.filename2 = "source", str(tmp_path / ".partial-a")  # of a copy
    assert fault(full).filename == str(tmp_path / "a")
    assert fault(PermissionError(13, "Permission denied", "source")).filename == "source"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), replacing(tmp_path / "file/a"):
        pass


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(b"garbage" * 1000),
        lambda path: np.savez(path, y=np.ones(3)),
        lambda path: np.savez(path, x=np.array([{}])),  # to be unpickled
    ],
    ids=["cut off", "empty", "garbage", "without x", "objects"],
)
def test_a_damaged_npz_is_named(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(1000), y=np.ones(3))
    y, x = read_arrays(path, "y", "x")
    assert (x == np.arange(1000)).all()
    assert (y == 1).all()
    spoil(path)
    with pytest.raises(PipelineError, match=r"a\.npz: damaged \(.*; run `dvc repro`") as error:
        read_arrays(path, "x")
    assert "\n" not in str(error.value)


def test_what_is_missing_or_forbidden_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, reading(tmp_path / "a.h5"):
        h5py.File(tmp_path / "a.h5")
    assert error.value.filename == str(tmp_path / "a.h5")
    with pytest.raises(IsADirectoryError), reading(tmp_path):
        tmp_path.read_bytes()


@pytest.mark.parametrize("count", [1, 9, 10, 1000])
def test_numpy_reads_what_was_written(count: int, tmp_path: Path) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 4, 6, 3), np.uint8)
    mirrored = (image[:, ::-1] for image in images)  # not contiguous
    write_rows(tmp_path / "a.npy", "|u1", (4, 6, 3), mirrored)
    found = np.load(tmp_path / "a.npy")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, images[:, :, ::-1])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), found)


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    def images(count: int) -> Iterator[np.ndarray]:
        for number in range(count):
            yield np.full((100, 100, 3), number % 256, np.uint8)

    write_rows(tmp_path / "first.npy", "|u1", (100, 100, 3), images(2))
    tracemalloc.start()
    write_rows(tmp_path / "a.npy", "|u1", (100, 100, 3), images(500))  # 15 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "a.npy").stat().st_size > 500 * 30_000
    assert peak < 10 * 30_000
