"""Shuffled batches of stored activations, views in turn, read a window at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages.training.cutmix import Batch, cutmix

# Shuffling moves chunks of neighboring images, then mixes a window of them in memory: as good as a
# full shuffle for training, and the file is read sequentially, also when larger than memory.
CHUNK = 128  # images
WINDOW = 32  # batches


class Batches:
    """Batches of stored activations with one-hot labels, an epoch of them each time it is iterated.

    With a seed the order is new in each epoch, each chunk of images comes from the next view in
    turn (so that every view is seen before one repeats), and an incomplete last batch is dropped,
    because BatchNormalization would take its statistics from too few images. Without a seed all
    images come in order.

    Args:
        views: float (n, ...) each, of the same images.
        labels: integers (n,) in [0, classes).
        classes: number of classes.
        batch_size: images in a batch.
        seed: of the order and of CutMix, or None.
        cutmix_fraction: fraction of the batches that CutMix is applied to, in [0, 1].

    Each item is float32 (b, ...), float32 (b, classes).
    """

    def __init__(
        self,
        views: Sequence[npt.NDArray[np.floating]],
        labels: npt.NDArray,
        classes: int,
        batch_size: int,
        seed: int | None = None,
        cutmix_fraction: float = 0.0,
    ) -> None:
        self._views = views
        self._targets = np.eye(classes, dtype=np.float32)[labels]
        self._batch_size = min(batch_size, len(labels))
        self._seed = seed
        self._cutmix_fraction = cutmix_fraction
        self._epoch = 0

    def __len__(self) -> int:
        count = len(self._targets)
        if self._seed is None:
            return -(-count // self._batch_size)
        return count // self._batch_size

    def __iter__(self) -> Iterator[Batch]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        count, size = len(self._targets), WINDOW * self._batch_size
        order = np.arange(count)
        if self._seed is not None:
            whole_batches = len(self) * self._batch_size
            order = epoch_order(count, size, (self._seed, epoch))[:whole_batches]
        for start in range(0, len(order), size):
            yield from self._window(order[start : start + size], epoch, start // self._batch_size)

    def go_to(self, epoch: int) -> None:
        """Continue with an epoch, counted from 0."""
        self._epoch = epoch

    def dataset(self) -> tf.data.Dataset:
        """Return the batches as `model.fit` takes them.

        A dataset made by Keras is autotuned, which delays the end of `fit` by up to 39 s
        (TensorFlow 2.21.0). Its `prefetch` does nothing where operations have to be reproducible,
        so a thread prepares the next batch.
        """
        options = tf.data.Options()
        options.autotune.enabled = False
        shapes = (self._views[0].shape[1:], self._targets.shape[1:])
        signature = tuple(tf.TensorSpec((None, *shape), tf.float32) for shape in shapes)
        batches = tf.data.Dataset.from_generator(
            lambda: _ahead(iter(self)), output_signature=signature
        )
        known = batches.apply(tf.data.experimental.assert_cardinality(len(self)))
        return known.with_options(options)

    def _window(self, images: npt.NDArray[np.intp], epoch: int, done: int) -> Iterator[Batch]:
        """Read a window of images and yield its batches; `done` of the epoch came before."""
        first = self._views[0]
        activations = np.empty((len(images), *first.shape[1:]), first.dtype)
        view_of = (images // CHUNK + epoch) % len(self._views)
        for number, view in enumerate(self._views):
            of_view = np.flatnonzero(view_of == number)
            by_place = of_view[np.argsort(images[of_view])]
            activations[by_place] = view[images[by_place]]
        for start in range(0, len(images), self._batch_size):
            batch = slice(start, start + self._batch_size)
            x, y = activations[batch].astype(np.float32), self._targets[images[batch]]
            if self._seed is not None and self._cutmix_fraction:
                # From 1: NumPy treats (seed, epoch, 0, 0) like (seed, epoch), the order's seed.
                place = (self._seed, epoch, done + start // self._batch_size + 1)
                if np.random.default_rng((*place, 0)).random() < self._cutmix_fraction:
                    x, y = cutmix(x, y, (*place, 1))
            yield x, y


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while batch := coming.result():
            coming = thread.submit(next, batches, None)
            yield batch


def epoch_order(
    count: int, window: int, seed: int | tuple[int, ...], chunk: int = CHUNK
) -> npt.NDArray[np.intp]:
    """Return a random order of 0 to count-1 that is read in runs of `chunk` neighbors.

    A chunk spans at most ceil(chunk / window) + 1 consecutive windows.
    """
    rng = np.random.default_rng(seed)
    starts = rng.permutation(np.arange(0, count, chunk))
    order = np.concatenate([np.arange(s, min(s + chunk, count)) for s in starts])
    for start in range(0, count, window):
        rng.shuffle(order[start : start + window])
    return order
