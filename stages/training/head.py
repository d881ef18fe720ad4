"""The head: the new last layer, from pooled features to a logit for each class."""

from pathlib import Path

import keras
import numpy as np

from stages.files import read_arrays, reading, replacing
from stages.training.layers import InHalves


def new_head(classes: int) -> keras.layers.Dense:
    """Return a head that starts at zero: all classes equally likely, whatever the features' scale.

    As in Kolesnikov et al. 2020 (https://arxiv.org/abs/1912.11370).
    """
    return keras.layers.Dense(classes, kernel_initializer="zeros", name="logits")


def with_head(features: keras.Model, head: keras.layers.Dense) -> keras.Model:
    """Put a head on pooled features, in half batches: activations at the cut -> (n, classes)."""
    activations = keras.Input(features.input_shape[1:], name="activations")
    return keras.Model(activations, head(InHalves(features)(activations)))


def save_head(head: keras.layers.Dense, path: Path) -> None:
    """Save a head as .npz: float32 kernel (channels, classes) and bias (classes,)."""
    kernel, bias = head.get_weights()
    with replacing(path) as partial:
        np.savez(partial, kernel=kernel, bias=bias)


def load_head(path: Path, head: keras.layers.Dense) -> None:
    """Set the weights of a head that is part of a model from `save_head`'s file."""
    weights = read_arrays(path, "kernel", "bias")
    with reading(path):
        head.set_weights(weights)
