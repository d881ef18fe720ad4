"""Inference, and datasets that end at once: without a thread that has to be waited for.

Given an array, Keras makes a dataset that tf.data tunes while it runs, and to end that one has to
wait until the thread that does so wakes up. It sleeps 10 ms, then twice as long each time, so the
wait can come to as much as the work: 17 s after 24 s (TensorFlow 2.21.0, one run). Two cores have
nothing to tune.
"""

from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf


def batched(arrays: Any, batch_size: int) -> tf.data.Dataset:
    """Return a dataset of batches, in order, that is not tuned.

    Args:
        arrays: one of shape (n, ...), or a tuple of several.
        batch_size: rows in a batch; the last one may have fewer.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size).with_options(options)


def predict(model: keras.Model, x: npt.NDArray, batch_size: int, verbose: int = 0) -> npt.NDArray:
    """Return what `model.predict` does.

    Args:
        model: with one input and one output.
        x: its input, (n, ...).
        batch_size: rows at a time.
        verbose: as `model.predict` takes it.
    """
    return model.predict(batched(x, batch_size), verbose=verbose)
