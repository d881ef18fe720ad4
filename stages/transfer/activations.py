"""Activations at the cut: computed once, stored as float16."""

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from stages.transfer.errors import PipelineError

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
        PipelineError: they do not fit on the disk, or one is beyond float16's range (65,504).
    """
    shape = (len(images), *prefix.output_shape[1:])
    needed, free = 2 * math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:  # writing to a mapped file on a full disk would kill the process
        raise PipelineError(
            f"{title}: needs {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free on the disk;"
            " free some, or choose a later backbone.cut"
        )
    out = np.lib.format.open_memmap(path, "w+", np.float16, shape)
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


def load(path: Path) -> Activations:
    """Map a file written by `compute`; nothing is read until it is used."""
    return np.load(path, mmap_mode="r")
