"""The classifier: head on suffix for training, prefix + suffix + head joined for use."""

from pathlib import Path

import keras
import numpy as np

from stages.transfer import hdf5, recipe
from stages.transfer.backbones import on_raw_images
from stages.transfer.dataset import arrays
from stages.transfer.errors import PipelineError
from stages.transfer.files import reading, replacing


def trainable_part(suffix: keras.Model, classes: int, dropout: float) -> keras.Model:
    """Put pooling, dropout and a new head on the suffix.

    Args:
        suffix: from the activation at the cut to the backbone's last feature map.
        classes: number of classes.
        dropout: share of the pooled features that a training step leaves out.

    Returns:
        A functional model, activations -> logits (n, classes). It shares the suffix's weights.
    """
    activations = keras.Input(suffix.input_shape[1:], name="activations")
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(suffix(activations))
    dropped = keras.layers.Dropout(dropout, name="dropout")(pooled)
    return keras.Model(activations, recipe.head(classes)(dropped), name="trainable_part")


def pooled_features(suffix: keras.Model) -> keras.Model:
    """Return the suffix with pooling on top: activations -> (n, channels)."""
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(suffix.output)
    return keras.Model(suffix.input, pooled)


def join(
    net: keras.Model,
    name: str,
    image_size: int,
    head: keras.layers.Dense,
    test_time_flip: bool = False,
) -> keras.Model:
    """Join the whole net and the head into one model that takes raw images.

    Args:
        net: the backbone whose prefix and suffix were used; it holds the trained weights.
        name: the application, a key of `APPLICATIONS`.
        image_size: side of the net's input, in pixels.
        head: the trained last layer, pooled features -> logits.
        test_time_flip: average the probabilities of the image and of its mirror image, which
            doubles the work of inference.

    Returns:
        A model compiled with accuracy: images (n, 32, 32, 3) in [0, 255] -> probabilities, float32
        (n, classes).
    """
    backbone = on_raw_images(net, name, image_size)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(backbone.output)
    probabilities = keras.layers.Softmax(name="probabilities")(head(pooled))
    model = keras.Model(backbone.input, probabilities, name="cifar10")
    if test_time_flip:
        images = keras.Input((32, 32, 3), name="images")
        both = [model(images), model(mirrored(images))]
        averaged = keras.layers.Average(name="average")(both)
        model = keras.Model(images, averaged, name="cifar10_and_mirrored")
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def mirrored(images: keras.KerasTensor) -> keras.KerasTensor:
    """Mirror images left to right, (n, 32, 32, 3), with layers that every .h5 can hold.

    `keras.ops.flip` would not load again, so columns are exchanged by a fixed permutation matrix.
    """
    columns = images.shape[2]
    exchange = keras.layers.Dense(columns, use_bias=False, trainable=False, name="exchange_columns")
    exchange.build((None, None, None, columns))
    exchange.set_weights([np.eye(columns)[::-1]])
    columns_last = keras.layers.Permute((1, 3, 2), name="columns_last")(images)
    return keras.layers.Permute((1, 3, 2), name="channels_last")(exchange(columns_last))


def save(model: keras.Model, path: Path) -> None:
    """Save a compiled model as one .h5 file, whole or not at all."""
    hdf5.save_model(model, path)


def save_head(head: keras.layers.Dense, dev_accuracy: float, path: Path) -> None:
    """Save a head as .npz: float32 kernel (channels, classes) and bias (classes,).

    Args:
        head: a trained head.
        dev_accuracy: its accuracy on dev, in [0, 1], kept with it.
        path: the .npz file.
    """
    kernel, bias = head.get_weights()
    with replacing(path) as partial:
        np.savez(partial, kernel=kernel, bias=bias, dev_accuracy=dev_accuracy)


def load_head(path: Path, head: keras.layers.Dense) -> None:
    """Set the head's weights from `save_head`'s file.

    Raises:
        PipelineError: the file is damaged, or its shapes are not the head's.
    """
    kernel, bias = arrays(path, "kernel", "bias")
    expected = tuple(head.kernel.shape)
    if kernel.shape != expected:
        raise PipelineError(
            f"{path}: a head of shape {kernel.shape}, expected {expected}; run `dvc repro`"
        )
    with reading(path):
        head.set_weights([kernel, bias])
