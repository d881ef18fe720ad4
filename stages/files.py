"""Atomic writes of outputs: beside their place, then renamed."""

import csv
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.errors import PipelineError, reason


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    It may be a file or a folder (not atomic: the old folder is removed first). If the block raises,
    what it wrote is removed and `path` is as it was before. A missing parent folder is created.

    Yields:
        A path in the same folder (so that the rename is atomic), with the same suffix, because
        Keras chooses a file's format by its suffix. Nothing exists there yet.

    Raises:
        OSError: it cannot be written; the error then names `path`.
    """
    partial = path.with_name(f".partial-{path.name}")
    _remove(partial)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if partial.is_dir():
            _remove(path)
        os.replace(partial, path)
    except OSError as error:
        # On a full disk, write() raises without a file name, a copy with two.
        if error.errno and str(partial) in (str(error.filename or partial), str(error.filename2)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        _remove(partial)


@contextmanager
def replacing_hdf5(path: Path, model: Any) -> Iterator[Path]:
    """Do as `replacing` for a file in which Keras stores a model's weights.

    On a full disk, HDF5 loses data silently or crashes; a slightly larger dummy file first turns
    that into an OSError.
    """
    with replacing(path) as partial:
        partial.write_bytes(os.urandom(2**20 + 4 * model.count_params()))
        yield partial


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert library exceptions about a damaged file to a one-line PipelineError.

    Raises:
        PipelineError: it is damaged.
        OSError: it is missing or unreadable; passed on unchanged.
    """
    try:
        yield
    except (PipelineError, MemoryError):
        raise
    except Exception as error:  # zip, NumPy, HDF5 and Keras each have their own
        if isinstance(error, OSError) and error.filename:
            raise
        if not path.exists():  # HDF5's OSError has no errno for it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        raise PipelineError(f"{path}: damaged ({reason(error)}); run `dvc repro`") from error


def read_arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """Return some arrays of an .npz, in the order of the names.

    Raises:
        PipelineError: the file is damaged, or lacks one.
    """
    with reading(path), np.load(path) as file:
        return [file[name] for name in names]


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write a table atomically; names of files that are not UTF-8 keep their bytes."""
    with replacing(path) as new, new.open("w", -1, "utf-8", "surrogateescape", "") as file:
        csv.writer(file).writerows(rows)


def write_rows(
    path: Path, dtype: str, shape: tuple[int, ...], rows: Iterable[npt.NDArray[Any]]
) -> None:
    """Write rows of one shape and type, "|u1" or "<f2", as .npy, one by one.

    Not with a memory map: a full disk then raises OSError, not SIGBUS.
    """
    header: dict[str, Any] = {"descr": dtype, "fortran_order": False, "shape": (0, *shape)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        count = 0
        for row in rows:
            file.write(np.ascontiguousarray(row).data)
            count += 1
        file.seek(0)
        header["shape"] = (count, *shape)  # as long a text: NumPy leaves room for the number
        np.lib.format.write_array_header_1_0(file, header)


def mapped(path: Path) -> npt.NDArray[Any]:
    """Map an .npy file, read when it is used; raise PipelineError if it is damaged."""
    with reading(path):
        return np.load(path, mmap_mode="r")


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file's bytes, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
