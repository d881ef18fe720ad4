"""Batches of stored activations for training: shuffled, views in turn, read back in pieces."""

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt

from stages.data.activations import Activations
from stages.training.cutmix import cutmix

# Shuffling moves chunks of neighbouring images, then mixes a window of them in memory: as good as
# a full shuffle for training, and the file is read in long runs even when it is not in memory.
CHUNK = 128  # images
WINDOW = 32  # batches


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
        seed: of the order and of CutMix, or None.
        cutmix_share: share of the batches that CutMix is applied to, in [0, 1].

    Each item is float32 (b, ...), float32 (b, classes).
    """

    def __init__(
        self,
        views: Sequence[Activations],
        labels: npt.NDArray,
        classes: int,
        batch_size: int,
        seed: int | None = None,
        cutmix_share: float = 0.0,
    ) -> None:
        super().__init__()
        self._views = views
        self._targets = np.eye(classes, dtype=np.float32)[labels]
        self._batch_size = min(batch_size, len(labels))
        self._seed = seed
        self._cutmix_share = cutmix_share
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
        x, y = self._activations[batch].astype(np.float32), self._window_targets[batch]
        if self._seed is None:
            return x, y
        # From 1, because NumPy takes (seed, epoch), the order's, for (seed, epoch, 0, 0).
        seed = (self._seed, self._epoch, index + 1)
        drawn = np.random.default_rng((*seed, 0)).random() < self._cutmix_share
        return cutmix(x, y, (*seed, 1)) if drawn else (x, y)

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order; Keras calls it."""
        self.go_to(self._epoch + 1)

    def go_to(self, epoch: int) -> None:
        """Give the batches of an epoch, counted from 0, as if those before it had been given."""
        self._epoch = epoch
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
