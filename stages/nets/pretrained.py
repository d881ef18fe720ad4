"""An application from `keras.applications` without its top, and its weights."""

import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import h5py
import keras
import numpy as np

from stages.errors import PipelineError, reason
from stages.files import replacing_hdf5
from stages.nets.applications import APPLICATIONS
from stages.nets.builtin_layers import rewritten

# The one private part of Keras: what `keras.applications` downloads weights with.
GET_FILE = "keras.src.utils.file_utils.get_file"
SUFFIXES = (".h5", ".hdf5")  # for other names Keras opens archives, and folders of files


class WeightsFile(NamedTuple):
    """The file that Keras would download for an application."""

    name: str
    url: str
    hash: str | None  # the MD5 or SHA-256 that Keras checks, if it does


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
        weights: a file of .weights.h5, or .h5 as Keras publishes them; None leaves it random.

    Returns:
        A functional model: float32 (n, image_size, image_size, 3) -> float32 (n, h, w, channels).

    Raises:
        PipelineError: the file holds no weights for this application, or NaN or infinity.
        FileNotFoundError: there is no such file.
    """
    # Else names like conv2d_12 depend on what the process has built before.
    keras.utils.clear_session(free_memory=False)
    # Only for its ImageNet weights does Keras give EfficientNet the scaling that they expect.
    with mock.patch(GET_FILE), mock.patch.object(keras.Model, "load_weights"):
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
    with replacing_hdf5(path, model) as partial:
        model.save_weights(partial)
        with h5py.File(partial, "r+") as file:
            file.attrs["source"] = source


def official_weights(name: str) -> WeightsFile:
    """Return the ImageNet weights file that Keras downloads for an application, without doing so.

    It is that of the native size: of MobileNetV2 Keras has others for 96, 128, 160 and 192 px, and
    another `backbone.image_size` would silently select other weights. Keras defines name, address
    and hash inside each constructor, so it is called with a download function that stops it.
    """

    class Stopped(Exception):  # noqa: N818 - a message to the caller below, not an error
        pass

    def get_file(fname: str, origin: str, *_: object, **options: str | None) -> None:
        digest = options.get("file_hash") or options.get("md5_hash")
        raise Stopped(WeightsFile(fname, origin, digest))

    with mock.patch(GET_FILE, get_file):
        try:
            _construct(name, APPLICATIONS[name].native_size)
        except Stopped as answer:
            return answer.args[0]
    raise AssertionError(f"keras.applications.{name} has not called {GET_FILE}")


def _construct(name: str, image_size: int) -> keras.Model:
    shape = (image_size, image_size, 3)
    with warnings.catch_warnings(action="ignore"):  # that it takes weights of another size
        return getattr(keras.applications, name)(
            include_top=False, weights="imagenet", input_shape=shape
        )


def _load(net: keras.Model, name: str, weights: Path) -> None:
    """Load weights; explain in one line why they are not those of the net."""
    if not weights.name.endswith(SUFFIXES):
        raise PipelineError(f"{weights}: expected a name that ends in .weights.h5 or .h5")
    if not weights.exists():
        raise FileNotFoundError(2, "No such file", str(weights))
    try:
        # Whatever Keras warns about here raises a clearer error below.
        with warnings.catch_warnings(action="ignore"), np.errstate(over="ignore"):
            net.load_weights(weights)
    # A damaged file can raise nearly anything.
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
