"""The model that is saved: the whole classifier on raw images, of built-in layers only."""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from stages.files import replacing_hdf5
from stages.nets.graph import applied, pooled

# Learning rate for further training: https://keras.io/guides/transfer_learning/
LEARNING_RATE = 1e-5


def classifier(
    backbone: keras.Model, head: keras.layers.Dense, test_time_flip: bool
) -> keras.Model:
    """Return a compiled model: images in [0, 255] -> probabilities (n, classes).

    It is flat: `model.layers` has the layers of the backbone (raw images -> the last feature map).
    `model.layers[-2]` outputs the pooled features, averaged over image and mirror image if
    `test_time_flip`; layers are then called twice, and `layer.output` is of the call on the image.
    """
    features = pooled(backbone)
    images, x = features.input, features.output
    if test_time_flip:
        of_mirror = applied(features, mirrored(images))
        x = keras.layers.Average(name="average")([x, of_mirror])
    predictions = keras.layers.Dense(head.units, activation="softmax", name="predictions")
    model = keras.Model(images, predictions(x), name="classifier")
    predictions.set_weights(head.get_weights())
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE), "categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def mirrored(images: keras.KerasTensor) -> keras.KerasTensor:
    """Mirror images left to right, (n, height, width, 3), with layers that load from .h5.

    `keras.ops.flip` cannot be loaded from .h5, so a fixed permutation matrix exchanges columns.
    """
    columns = images.shape[2]
    exchange = keras.layers.Dense(columns, use_bias=False, trainable=False, name="exchange_columns")
    exchange.build((None, None, None, columns))
    exchange.set_weights([np.eye(columns)[::-1]])
    columns_last = keras.layers.Permute((1, 3, 2), name="columns_last")(images)
    return keras.layers.Permute((1, 3, 2), name="channels_last")(exchange(columns_last))


def save(model: keras.Model, path: Path, class_names: Iterable[str], aspect: str) -> None:
    """Write what `model.save` does, a compiled model as .h5, atomically.

    The file has attributes that Keras ignores: `class_names`, JSON, in the order of the outputs;
    `image_size`, (height, width) in pixels; `aspect`, how photos are made square, if not "crop".

    Raises:
        OSError: it cannot be written.
    """
    with replacing_hdf5(path, model) as partial:
        model.save(partial)
        with h5py.File(partial, "r+") as file:
            # Remove the empty optimizer state: Keras would restore an optimizer without variables,
            # with which the model could not be trained.
            del file["optimizer_weights"]
            for name in ("model_config", "training_config"):
                file.attrs[name] = json.dumps(portable(json.loads(file.attrs[name])))
            file.attrs["class_names"] = json.dumps([str(name) for name in class_names])
            file.attrs["image_size"] = model.input_shape[1:3]
            if aspect != "crop":
                file.attrs["aspect"] = aspect


def portable(config: Any) -> Any:
    """Remove values that equal the defaults from a part of a model's configuration.

    Each version of Keras writes keys that older ones refuse, such as `quantization_config` of
    Dense, nearly always with the value that the class assumes without them. The float type is
    written as its name, which every Keras 3 reads. `training` in the arguments of a call is the
    default of the layer, too, which Keras after 3.15 would treat as set explicitly.
    """
    if isinstance(config, list):
        return [portable(value) for value in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return config["config"]["name"]
    kept = {key: portable(value) for key, value in config.items()}
    for node in kept.get("inbound_nodes", []):
        node["kwargs"].pop("training", None)
    for module in (keras.layers, keras.initializers, keras.optimizers):
        built_in = getattr(module, str(kept.get("class_name")), None)
        if built_in and built_in is not keras.layers.Rescaling:  # whose from_config needs all keys
            parameters = inspect.signature(built_in).parameters
            kept["config"] = {
                key: value
                for key, value in kept["config"].items()
                if key not in parameters or value != parameters[key].default
            }
    return kept
