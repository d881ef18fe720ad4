"""Activations at the cut: computed once, stored as float16."""

import errno
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from stages.transfer.errors import PipelineError
from stages.transfer.files import reading

if TYPE_CHECKING:
    from stages.transfer.views import View

Activations = npt.NDArray[np.float16]


def compute(
    prefix: keras.Model, images: "npt.NDArray | View", path: Path, batch_size: int, title: str
) -> None:
    """Run images through a frozen model and store what comes out.

    Args:
        prefix: takes `images`; used in inference mode.
        images: (n, ...) as the prefix takes them; read in slices.
        path: a .npy file to write: float16 (n, *prefix.output_shape[1:]).
        batch_size: images at a time.
        title: label of the progress bar.

    Raises:
        PipelineError: one is beyond float16's range (65,504).
        OSError: they do not fit on the disk.
    """
    out = _reserved(path, (len(images), *prefix.output_shape[1:]))
    with (
        tqdm(total=len(images), unit="image", desc=title, mininterval=2, disable=None) as progress,
        np.errstate(over="ignore"),
    ):
        for start in range(0, len(images), batch_size):
            batch = prefix.predict_on_batch(images[start : start + batch_size])
            out[start : start + batch_size] = batch
            if not np.isfinite(out[start : start + batch_size]).all():
                raise PipelineError(
                    f"{title}: an activation of {np.abs(batch).max():.3g} does not fit float16 "
                    "(65504 at the most); choose another backbone.cut"
                )
            progress.update(len(batch))
    out.flush()
    if progress.disable:  # no terminal to draw on: one line
        print(f"{title}: {len(images)} images", flush=True)


def size(prefix: keras.Model) -> int:
    """Return how many bytes the activations of one image take."""
    return 2 * math.prod(prefix.output_shape[1:])


def require_space(needed: int, folder: Path) -> None:
    """Raise OSError unless as many bytes are free on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"features need {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free on the disk "
            "(a later backbone.cut or fewer features.views need less)",
            str(folder),
        )


def _reserved(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Map a new file of zeros into memory, its blocks reserved.

    Writing to a mapped file whose blocks a full disk cannot give kills the process.
    """
    out: np.memmap = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return out


def load(path: Path) -> Activations:
    """Map a file written by `compute`; nothing is read until it is used.

    Raises:
        PipelineError: it is damaged.
    """
    with reading(path):
        return np.load(path, mmap_mode="r")
