"""An application from `keras.applications` without its top, and its weights."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import h5py
import keras
import numpy as np
from keras.src.saving import saving_lib
from keras.src.utils import file_utils, naming

from stages.errors import PipelineError, reason
from stages.files import replacing
from stages.nets.applications import APPLICATIONS
from stages.nets.builtin_layers import rewritten

SUFFIXES = (".h5", ".hdf5")  # for other names Keras opens archives, and folders of files


class WeightsFile(NamedTuple):
    """The file that Keras would download for an application.

    Attributes:
        name: its file name in Keras's own cache.
        url: where Keras gets it.
        hash: the MD5 or SHA-256 that Keras checks, or None where Keras checks nothing.
    """

    name: str
    url: str
    hash: str | None


def build(name: str, image_size: int, weights: Path | None = None) -> keras.Model:
    """Build an application without its top, of built-in layers only, always with the same names.

    Takes, gives and raises what `original` does, but for two things: the parts that an .h5 would
    not load are replaced, and the net takes red, green, blue where the application takes BGR. No
    weightless layer exchanges channels, so the kernel of the first convolution does.
    """
    net = rewritten(original(name, image_size, weights))
    if APPLICATIONS[name].preprocessing == "caffe":
        first = next(layer for layer in net.layers if isinstance(layer, keras.layers.Conv2D))
        kernel, *bias = first.get_weights()
        first.set_weights([kernel[:, :, ::-1], *bias])
    return net


def original(name: str, image_size: int, weights: Path | None = None) -> keras.Model:
    """Build an application without its top as Keras has it, which weights files are made for.

    Args:
        name: a key of `APPLICATIONS`.
        image_size: side of the square input, in pixels.
        weights: a weights file for this application without its top, in the format that its name
            tells Keras (.weights.h5, or .h5 as Keras publishes them); None leaves it random.

    Returns:
        A functional model: float32 (n, image_size, image_size, 3) -> float32 (n, h, w, channels).

    Raises:
        PipelineError: the file holds no weights for this application, or one that is no number.
        FileNotFoundError: there is no such file.
    """
    naming.reset_uids()  # else names like conv2d_12 depend on what the process has built before
    with (
        # Only for its ImageNet weights does Keras give EfficientNet the scaling that they expect.
        mock.patch.object(file_utils, "get_file"),
        mock.patch.object(keras.Model, "load_weights"),
    ):
        net = _construct(name, image_size)
    if weights is not None:
        _load(net, name, weights)
    return net


def save_weights(model: keras.Model, path: Path, source: str) -> None:
    """Write what `model.save_weights` does, a .weights.h5 file, whole or not at all.

    `source`, the SHA-256 of the file that the weights are from, becomes an attribute of the file.

    Raises:
        OSError: it cannot be written.
    """
    # In memory first: on a disk that fills up, HDF5 itself loses data without an exception.
    image = io.BytesIO()
    store = saving_lib.H5IOStore(image, mode="w")
    saving_lib._save_state(
        model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
    )
    store.close()
    with h5py.File(image, "r+") as file:
        file.attrs["source"] = source
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(image.getbuffer())


def official_weights(name: str, image_size: int) -> WeightsFile:
    """Return the ImageNet weights file that Keras would download, without downloading it.

    Keras decides name, address and hash inside each constructor (MobileNetV2 has a file for each
    of five sizes), so the constructor is asked: its download is replaced by one that stops.
    """

    class Asked(Exception):  # noqa: N818 - a message to the caller below, not an error
        pass

    def get_file(fname: str, origin: str, *_: object, **options: str | None) -> None:
        asked = options.get("file_hash") or options.get("md5_hash")
        raise Asked(WeightsFile(fname, origin, asked))

    with mock.patch.object(file_utils, "get_file", get_file):
        try:
            _construct(name, image_size)
        except Asked as answer:
            return answer.args[0]
    raise AssertionError(f"keras.applications.{name} has asked for no weights")


def _construct(name: str, image_size: int) -> keras.Model:
    shape = (image_size, image_size, 3)
    with warnings.catch_warnings(action="ignore"):  # that it takes weights of another size
        return getattr(keras.applications, name)(
            include_top=False, weights="imagenet", input_shape=shape
        )


def _load(net: keras.Model, name: str, weights: Path) -> None:
    """Load weights, and say in one line why they are not those of the net."""
    if not weights.name.endswith(SUFFIXES):
        raise PipelineError(f"{weights}: expected a name that ends in .weights.h5 or .h5")
    if not weights.exists():
        raise FileNotFoundError(2, "No such file", str(weights))
    try:
        # Of what Keras warns here, an error follows that says it better.
        with warnings.catch_warnings(action="ignore"), np.errstate(over="ignore"):
            net.load_weights(weights)
    # A damaged file can raise nearly anything; all of it means the same to the reader.
    except Exception as error:
        raise PipelineError(
            f"{weights}: expected the weights of {name} without its top, got: {reason(error)} "
            "(set backbone.name to the application that the file belongs to, or take another file)"
        ) from error
    for weight in net.weights:
        if not np.isfinite(weight).all():
            raise PipelineError(
                f"{weights}: {weight.path} holds NaN or infinity, expected numbers; such "
                "weights are of a training that failed: take others"
            )
