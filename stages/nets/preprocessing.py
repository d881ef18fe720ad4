"""Resizing and an application's own preprocessing, as built-in layers in front of a net.

They live in the saved model, so that nobody can forget them or apply them twice.
"""

import keras
import numpy as np

from stages.nets.applications import Preprocessing

IMAGE_SHAPE = (32, 32, 3)
# Mean and deviation of ImageNet's channels, RGB in [0, 1]; mean in BGR order, [0, 255]:
# keras/src/applications/imagenet_utils.py, modes "torch" and "caffe".
TORCH_MEAN = (0.485, 0.456, 0.406)
TORCH_DEVIATION = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def on_raw_images(net: keras.Model, preprocessing: Preprocessing, image_size: int) -> keras.Model:
    """Put resizing and preprocessing in front of a net, or of its prefix.

    Args:
        net: takes the application's own input, (n, image_size, image_size, 3).
        preprocessing: what the application's weights expect.
        image_size: side of the net's input, in pixels.

    Returns:
        A functional model that takes raw images, (n, 32, 32, 3) in [0, 255].
    """
    images = keras.Input(IMAGE_SHAPE, name="images")
    resizing = keras.layers.Resizing(
        image_size, image_size, interpolation="bilinear", name="resizing"
    )
    # It takes itself to be in training unless told otherwise, and Keras hands that on to all
    # layers after it (https://github.com/keras-team/keras/pull/23166): `model(images)` would then
    # normalise by the batch, and change the moving averages.
    x = resizing(images, training=False)
    for layer in layers(preprocessing):
        x = layer(x)
    return keras.Model(images, net(x))


def layers(preprocessing: Preprocessing) -> list[keras.layers.Layer]:
    """Return built-in layers that equal `keras.applications.<module>.preprocess_input`."""
    if preprocessing == "inside":
        return []
    if preprocessing == "tf":
        return [keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocessing")]
    if preprocessing == "torch":
        scale = [1 / (255 * deviation) for deviation in TORCH_DEVIATION]
        offset = [-m / d for m, d in zip(TORCH_MEAN, TORCH_DEVIATION, strict=True)]
        return [keras.layers.Rescaling(scale, offset=offset, name="preprocessing")]
    # No built-in layer reverses channels; a 1x1 convolution by a permutation does, exactly.
    to_bgr = keras.layers.Conv2D(3, 1, trainable=False, name="preprocessing")
    to_bgr.build((None, None, None, 3))
    to_bgr.set_weights([np.eye(3)[::-1].reshape(1, 1, 3, 3), -np.array(CAFFE_MEAN_BGR)])
    return [to_bgr]
