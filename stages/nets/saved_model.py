"""The model that is saved: the whole classifier on raw images, of built-in layers only."""

import io
from pathlib import Path

import h5py
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format
from keras.src.saving import saving_lib

from stages.files import replacing

# For training the saved model on: https://keras.io/guides/transfer_learning/
LEARNING_RATE = 1e-5


def classifier(
    backbone: keras.Model, head: keras.layers.Dense, test_time_flip: bool
) -> keras.Model:
    """Return a compiled model: images (n, 32, 32, 3) in [0, 255] -> probabilities (n, classes).

    Args:
        backbone: raw images -> the last feature map.
        head: pooled features -> logits.
        test_time_flip: average the probabilities of the image and of its mirror image.
    """
    pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(backbone.output)
    probabilities = keras.layers.Softmax(name="probabilities")(head(pooled))
    model = keras.Model(backbone.input, probabilities, name="cifar10")
    if test_time_flip:
        images = keras.Input(backbone.input_shape[1:], name="images")
        both = [model(images), model(mirrored(images))]
        averaged = keras.layers.Average(name="average")(both)
        model = keras.Model(images, averaged, name="cifar10_and_mirrored")
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE), "categorical_crossentropy", metrics=["accuracy"]
    )
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


def round_kernels(model: keras.Model) -> None:
    """Give a model that was trained in bfloat16 the kernels that its training steps computed with.

    A step rounds each kernel before it convolves. What is saved is used in float32, and with the
    kernels as they are that is not quite the net that was trained (docs/experiments.md).
    """
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:  # not biases, nor scales and offsets of a normalisation
            rounded = keras.ops.cast(variable, "bfloat16")
            variable.assign(keras.ops.cast(rounded, variable.dtype))


# Both files are made in memory and then written: on a disk that fills up, HDF5 itself loses data
# without an exception.


def save(model: keras.Model, path: Path) -> None:
    """Write what `model.save` does, a compiled model as .h5, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        legacy_h5_format.save_model_to_hdf5(model, file)
        # The state of an optimizer that has done no step. Keras would load it as one that knows no
        # variable, and the model could not be trained on.
        del file["optimizer_weights"]
    _write(image, path)


def save_weights(model: keras.Model, path: Path) -> None:
    """Write what `model.save_weights` does, a .weights.h5 file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    image = io.BytesIO()
    store = saving_lib.H5IOStore(image, mode="w")
    saving_lib._save_state(
        model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
    )
    store.close()
    _write(image, path)


def _write(image: io.BytesIO, path: Path) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(image.getbuffer())
