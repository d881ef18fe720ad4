"""Resizing and an application's own preprocessing, as built-in layers in front of a net.

They are part of the saved model, so they cannot be omitted or applied twice.
"""

import keras

from stages.nets.applications import Preprocessing
from stages.nets.graph import applied

# ImageNet's mean and standard deviation by channel, red green blue: in [0, 1] and in [0, 255],
# keras/src/applications/imagenet_utils.py, modes "torch" and "caffe".
TORCH_MEAN = (0.485, 0.456, 0.406)
TORCH_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (123.68, 116.779, 103.939)


def on_raw_images(
    net: keras.Model, preprocessing: Preprocessing, image_shape: tuple[int, ...]
) -> keras.Model:
    """Put resizing and preprocessing in front of a net, or of its prefix.

    Returns:
        A functional model that takes raw images, (n, *image_shape) in [0, 255]. It is flat: the
        layers of the net, which it shares, are layers of its own.
    """
    images = keras.Input(image_shape, name="images")
    height, width = net.input_shape[1:3]
    x = keras.layers.Resizing(height, width, name="resizing")(images)
    # The argument `training` of Resizing defaults to True, and Keras 3.15 propagates a default to
    # all layers after it (https://github.com/keras-team/keras/pull/23166): `model(images)` would
    # then normalize by the batch and change the moving averages. Dropout propagates False, and does
    # nothing else at a rate of 0. `Resizing(...)(images, training=False)` would be saved, and from
    # the Keras after 3.15 on (https://github.com/keras-team/keras/pull/23364) override `fit`.
    x = keras.layers.Dropout(0.0, name="inference_by_default")(x)
    for layer in layers(preprocessing):
        x = layer(x)
    return keras.Model(images, applied(net, x))


def layers(preprocessing: Preprocessing) -> list[keras.layers.Layer]:
    """Return built-in layers that equal `keras.applications.<module>.preprocess_input`.

    For "caffe" without its exchange of red and blue, which is in the net (`pretrained.build`).
    """
    if preprocessing == "inside":
        return []
    if preprocessing == "tf":
        return [keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocessing")]
    if preprocessing == "torch":
        scale = [1 / (255 * deviation) for deviation in TORCH_STD]
        offset = [-m / d for m, d in zip(TORCH_MEAN, TORCH_STD, strict=True)]
        return [keras.layers.Rescaling(scale, offset=offset, name="preprocessing")]
    offset = [-mean for mean in CAFFE_MEAN]
    return [keras.layers.Rescaling(1.0, offset=offset, name="preprocessing")]
