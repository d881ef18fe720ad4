"""Backbones: an application from `keras.applications`, its weights, its preprocessing as layers."""

import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import keras
import numpy as np
from keras.src.utils import file_utils, naming

from stages.transfer.applications import APPLICATIONS, Preprocessing
from stages.transfer.builtin_layers import rewritten
from stages.transfer.errors import PipelineError, reason

# Mean and deviation of ImageNet's channels, RGB in [0, 1]; mean in BGR order, [0, 255]:
# keras/src/applications/imagenet_utils.py, modes "torch" and "caffe".
TORCH_MEAN = (0.485, 0.456, 0.406)
TORCH_DEVIATION = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


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

    Takes, gives and raises what `original` does; the parts that an .h5 would not load are replaced.
    """
    return rewritten(original(name, image_size, weights))


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
    """
    constructor = getattr(keras.applications, name)
    naming.reset_uids()  # else names like conv2d_12 depend on what the process has built before
    with (
        # Only for its ImageNet weights does Keras give EfficientNet the scaling that they expect.
        mock.patch.object(file_utils, "get_file"),
        mock.patch.object(keras.Model, "load_weights"),
        warnings.catch_warnings(action="ignore"),  # that MobileNet has none of this size
    ):
        net = constructor(
            include_top=False, weights="imagenet", input_shape=(image_size, image_size, 3)
        )
    if weights is not None:
        if not weights.exists():
            raise PipelineError(f"{weights} is missing; run `dvc repro`")
        try:
            with warnings.catch_warnings(), np.errstate(over="ignore"):
                # Keras only warns where a layer keeps its random weights.
                warnings.simplefilter("error", UserWarning)
                net.load_weights(weights)
        # A damaged file can raise nearly anything; all of it means the same to the reader.
        except Exception as error:
            raise PipelineError(
                f"{weights}: expected the weights of {name} without its top, got: {reason(error)} "
                "(remove the file, or set backbone.name to the application that it belongs to)"
            ) from error
        for weight in net.weights:
            if not np.isfinite(weight).all():
                raise PipelineError(
                    f"{weights}: {weight.path} holds NaN or infinity, expected numbers; such "
                    "weights are of a training that failed: take others"
                )
    return net


def official_weights(name: str, image_size: int) -> WeightsFile:
    """Return the ImageNet weights file that Keras would download, without downloading it.

    Keras decides name, address and hash inside each constructor (MobileNetV2 has a file for each
    of five sizes), so the constructor is asked: its download is replaced by one that stops.

    Raises:
        PipelineError: Keras has no ImageNet weights for this application without its top.
    """

    class Asked(Exception):  # noqa: N818 - a message to the caller below, not an error
        pass

    def get_file(fname: str, origin: str, *_: object, **options: str | None) -> None:
        asked = options.get("file_hash") or options.get("md5_hash")
        raise Asked(WeightsFile(fname, origin, asked))

    with mock.patch.object(file_utils, "get_file", get_file), warnings.catch_warnings():
        # Keras warns that it takes weights of another size; the file's name says so too.
        warnings.simplefilter("ignore")
        try:
            getattr(keras.applications, name)(
                include_top=False, weights="imagenet", input_shape=(image_size, image_size, 3)
            )
        except Asked as answer:
            return answer.args[0]
    raise PipelineError(f"backbone.name = {name!r}: Keras has no ImageNet weights for it")


def preprocessing(kind: Preprocessing) -> list[keras.layers.Layer]:
    """Return built-in layers that turn RGB in [0, 255] into what a backbone expects.

    They equal `keras.applications.<module>.preprocess_input` and live in the saved model, so that
    nobody can forget them or apply them twice.
    """
    if kind == "inside":
        return []
    if kind == "tf":
        return [keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocessing")]
    if kind == "torch":
        scale = [1 / (255 * deviation) for deviation in TORCH_DEVIATION]
        offset = [-m / d for m, d in zip(TORCH_MEAN, TORCH_DEVIATION, strict=True)]
        return [keras.layers.Rescaling(scale, offset=offset, name="preprocessing")]
    # No built-in layer reverses channels; a 1x1 convolution by a permutation does, exactly.
    to_bgr = keras.layers.Conv2D(3, 1, trainable=False, name="preprocessing")
    to_bgr.build((None, None, None, 3))
    to_bgr.set_weights([np.eye(3)[::-1].reshape(1, 1, 3, 3), -np.array(CAFFE_MEAN_BGR)])
    return [to_bgr]


def on_raw_images(net: keras.Model, name: str, image_size: int) -> keras.Model:
    """Put resizing and preprocessing in front of a net, or of its prefix.

    Args:
        net: takes the application's own input, (n, image_size, image_size, 3).
        name: the application, a key of `APPLICATIONS`.
        image_size: side of the net's input, in pixels.

    Returns:
        A functional model that takes raw images, (n, 32, 32, 3) in [0, 255].
    """
    images = keras.Input((32, 32, 3), name="images")
    resizing = keras.layers.Resizing(
        image_size, image_size, interpolation="bilinear", name="resizing"
    )
    # It takes itself to be in training unless told otherwise, and Keras hands that on to all
    # layers after it (https://github.com/keras-team/keras/pull/23166): `model(images)` would then
    # normalise by the batch, and change the moving averages.
    x = resizing(images, training=False)
    for layer in preprocessing(APPLICATIONS[name].preprocessing):
        x = layer(x)
    return keras.Model(images, net(x))
