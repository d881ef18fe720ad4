"""Atomic writes of outputs: beside their place, then renamed."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.errors import PipelineError, reason


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; rename it to `path` if the block succeeds.

    What is written may be a file or a folder. If the block raises, what it wrote is removed and
    whatever stood at `path` before is left as it was. A missing folder is made.

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
        # A full disk is found in write(), which has no name, or in a copy, which has two.
        if error.errno and str(partial) in (str(error.filename or partial), str(error.filename2)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        _remove(partial)


@contextmanager
def replacing_hdf5(path: Path, model: Any) -> Iterator[Path]:
    """Do as `replacing` for a file in which Keras stores a model's weights.

    Where the disk is full HDF5 loses data without an exception, or kills the process. So a file
    that is a little larger is written first, which ends in an ordinary OSError.
    """
    with replacing(path) as partial:
        partial.write_bytes(os.urandom(2**20 + 4 * model.count_params()))
        yield partial


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what libraries raise over a damaged output of an earlier stage into one line.

    Raises:
        PipelineError: it is damaged.
        OSError: it is missing or may not be read; this names itself.
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


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file's bytes, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
