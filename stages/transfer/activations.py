"""Activations at the cut: computed once, stored as float16, read back in pieces while training."""

import math
import shutil
from collections.abc import Sequence
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
# Shuffling moves chunks of neighbouring images, then mixes a window of them in memory: as good as
# a full shuffle for training, and the file is read in long runs even when it is not in memory.
CHUNK = 128  # images
WINDOW = 32  # batches


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


class Batches(keras.utils.PyDataset):
    """Batches of stored activations with one-hot labels.

    With a seed the order is new in each epoch, each chunk of images comes from the next view in
    turn (so that every view is seen before one repeats), and an incomplete last batch is dropped,
    because BatchNormalization would take its statistics from too few images. Without a seed all
    images of view 0 come in order.

    Args:
        views: float16 (n, ...) each, of the same images.
        labels: integers (n,) in [0, classes).
        classes: number of classes.
        batch_size: images in a batch.
        seed: of the order, or None.

    Each item is float32 (b, ...), float32 (b, classes).
    """

    def __init__(
        self,
        views: Sequence[Activations],
        labels: npt.NDArray,
        classes: int,
        batch_size: int,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self._views = views
        self._targets = np.eye(classes, dtype=np.float32)[labels]
        self._batch_size = min(batch_size, len(labels))
        self._seed = seed
        self._epoch = 0
        self._start_epoch()

    def __len__(self) -> int:
        count = len(self._targets)
        if self._seed is None:
            return -(-count // self._batch_size)
        return count // self._batch_size

    def __getitem__(self, index: int) -> tuple[npt.NDArray, npt.NDArray]:
        window, position = divmod(index, WINDOW)
        if window != self._window:
            self._load(window)
        batch = slice(position * self._batch_size, (position + 1) * self._batch_size)
        return self._activations[batch].astype(np.float32), self._window_targets[batch]

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order; Keras calls it."""
        self._epoch += 1
        self._start_epoch()

    def _start_epoch(self) -> None:
        count = len(self._targets)
        self._window = -1
        self._order = (
            np.arange(count)
            if self._seed is None
            else epoch_order(count, WINDOW * self._batch_size, (self._seed, self._epoch))
        )

    def _load(self, window: int) -> None:
        size = WINDOW * self._batch_size
        images = self._order[window * size : (window + 1) * size]
        self._activations = np.empty((len(images), *self._views[0].shape[1:]), np.float16)
        view_of = (images // CHUNK + self._epoch) % len(self._views)
        if self._seed is None:
            view_of[:] = 0
        for number, view in enumerate(self._views):
            of_view = np.flatnonzero(view_of == number)
            by_place = of_view[np.argsort(images[of_view])]
            self._activations[by_place] = view[images[by_place]]
        self._window_targets = self._targets[images]
        self._window = window


def epoch_order(
    count: int, window: int, seed: int | tuple[int, ...], chunk: int = CHUNK
) -> npt.NDArray[np.intp]:
    """Return a random order of `count` images that is read in runs of `chunk` neighbours.

    Args:
        count: number of images.
        window: images that are shuffled among each other.
        seed: of the order.
        chunk: images that stay together, in one window or two that follow each other.

    Returns:
        A permutation of 0 to count-1.
    """
    rng = np.random.default_rng(seed)
    starts = rng.permutation(np.arange(0, count, chunk))
    order = np.concatenate([np.arange(s, min(s + chunk, count)) for s in starts])
    for start in range(0, count, window):
        rng.shuffle(order[start : start + window])
    return order
