"""An application from `keras.applications` without its top, and its weights."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple
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
SUFFIXES = (".h5", ".hdf5")  # with other names, Keras would open archives or folders


class WeightsFile(NamedTuple):
    """The file that Keras would download for an application."""

    name: str
    url: str
    hash: str | None  # the MD5 or SHA-256 that Keras checks, if it does


def build(name: str, image_size: int, weights: Path | None = None) -> keras.Model:
    """Build an application without its top, of built-in layers only, always with the same names.

    Same arguments, result and errors as `original`, except: parts that .h5 cannot restore are
    replaced, padding layers are removed where convolutions can pad as much, and networks that
    expect BGR take RGB (the first kernel's input channels are reversed).
    """
    net = rewritten(original(name, image_size, weights))
    if APPLICATIONS[name].preprocessing == "caffe":
        first = next(layer for layer in net.layers if isinstance(layer, keras.layers.Conv2D))
        kernel, *bias = first.get_weights()
        first.set_weights([kernel[:, :, ::-1], *bias])
    return net


def original(name: str, image_size: int, weights: Path | None = None) -> keras.Model:
    """Build an application without its top, unchanged, as weights files expect.

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
    # Otherwise names like conv2d_12 depend on earlier models.
    keras.utils.clear_session(free_memory=False)
    net, _ = _construct(name, image_size)
    if weights is not None:
        _load(net, name, weights)
    return net


def save_weights(model: keras.Model, path: Path, source: str) -> None:
    """Write what `model.save_weights` does, a .weights.h5 file, atomically.

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
    and hash inside each constructor, so it is called with a mocked download function.
    """
    _, call = _construct(name, APPLICATIONS[name].native_size)
    (file, url), options = call
    return WeightsFile(file, url, options.get("file_hash") or options.get("md5_hash"))


def _construct(name: str, image_size: int) -> tuple[keras.Model, Any]:
    """Return a net as for ImageNet weights, without them, and how Keras would download these.

    weights='imagenet': only then does Keras add the input scaling that EfficientNet's weights
    expect; download and loading are mocked.
    """
    with (
        mock.patch(GET_FILE) as get_file,
        mock.patch.object(keras.Model, "load_weights"),
        warnings.catch_warnings(action="ignore"),  # about weights of another size
    ):
        shape = (image_size, image_size, 3)
        net = getattr(keras.applications, name)(
            include_top=False, weights="imagenet", input_shape=shape
        )
    return net, get_file.call_args


def _load(net: keras.Model, name: str, weights: Path) -> None:
    """Load weights; explain in one line why they are not those of the net."""
    if not weights.name.endswith(SUFFIXES):
        raise PipelineError(f"{weights}: expected a name that ends in .weights.h5 or .h5")
    weights.stat()  # raises if it is missing
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
                f"{weights}: {weight.path} holds NaN or infinity, expected numbers; training "
                "probably diverged; use other weights"
            )
