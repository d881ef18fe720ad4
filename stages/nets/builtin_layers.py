"""A net made of built-in layers only, so that plain `load_model` reads its .h5.

Some applications hold layers of classes of their own, and operations that are not layers, `x + y`
or `x + 3.0`. Keras saves both to .h5 but cannot load them. They are replaced here, one for one, by
built-in layers that compute the same; so are grouped convolutions, which are slow. Padding layers,
too, are slow: they are removed where the convolution can pad as much itself.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from stages.errors import PipelineError
from stages.nets.graph import pairs

Part = Callable[..., keras.KerasTensor]


def rewritten(net: keras.Model) -> keras.Model:
    """Return a net of built-in layers only that computes the same.

    That is the functional net itself if nothing in it needs to be replaced. Else it has layers and
    weights of its own, of the same values; a layer keeps its name, and a layer that takes an
    operation's place has the operation's. No layer or operation may be used twice.

    Raises:
        PipelineError: a part is neither built in nor one that is replaced here.
    """
    replaced = {
        operation.name: part for operation in net.operations if (part := _replacement(operation))
    }
    for operation in net.operations:
        known = getattr(keras.layers, type(operation).__name__, None) is type(operation)
        if not (known or operation.name in replaced or isinstance(operation, keras.Sequential)):
            raise PipelineError(
                f"{net.name}: {operation.name} ({type(operation).__name__}) is not a built-in "
                "layer and has no replacement; a saved model would not load"
            )
    parts = replaced | _padding(net)
    if not parts:
        return net

    clone = keras.models.clone_model(
        net,
        keras.Input(net.input_shape[1:], name=net.layers[0].name),
        lambda o: parts.get(o.name) or type(o).from_config(o.get_config()),
    )
    for layer in net.layers:
        if layer.weights and layer.name not in replaced:
            clone.get_layer(layer.name).set_weights(layer.get_weights())
    return clone


def _replacement(operation: keras.Operation) -> Part | None:
    """Return what to call in place of an operation, with its arguments, or None to keep it."""
    kind = type(operation).__name__  # of a class that Keras does not export
    if kind == "LayerScale":
        return partial(_channel_scale, operation)
    if kind == "CustomScaleLayer":
        return partial(_scaled_residual, operation)
    if kind == "Add" and not isinstance(operation, keras.layers.Layer):
        return partial(_sum, operation.name)
    if kind == "Multiply" and not isinstance(operation, keras.layers.Layer):  # by a constant
        return lambda x, y: keras.layers.Rescaling(y, name=operation.name)(x)
    if isinstance(operation, keras.layers.Conv2D):
        channels = operation.kernel.shape[2] * operation.groups
        each_its_own = 1 < operation.groups == channels == operation.filters
        return partial(_depthwise, operation) if each_its_own else None
    if isinstance(operation, keras.layers.Normalization) and operation.get_config()["mean"] is None:
        return partial(_fixed_normalization, operation)
    return None


def _padding(net: keras.Model) -> dict[str, Part]:
    """Return replacements for padding layers: the convolution that follows pads as much itself.

    With them, inference takes 1.2 times as long (MobileNetV2, 112 px, one core of an Intel Xeon
    with AMX, median of 4 runs).
    """
    found: dict[str, Part] = {}
    for pad, layer in pairs(net):
        convolution = isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)
        if not convolution or not isinstance(pad, keras.layers.ZeroPadding2D):
            continue
        reach = [(k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
        sides = zip(pad.input.shape[1:3], layer.strides, reach, strict=True)
        same = [max((-(-n // s) - 1) * s + 1 + r - n, 0) for n, s, r in sides]
        as_much = [(total // 2, total - total // 2) for total in same] == [*map(tuple, pad.padding)]
        if as_much and layer.padding == "valid" and not _replacement(layer):
            found[pad.name] = lambda x: x
            found[layer.name] = type(layer).from_config(layer.get_config() | {"padding": "same"})
    return found


def _channel_scale(layer: Any, x: keras.KerasTensor) -> keras.KerasTensor:
    """Replace by an equivalent 1x1 depthwise convolution."""
    scale = keras.layers.DepthwiseConv2D(
        1, use_bias=False, name=layer.name, trainable=layer.trainable
    )
    y = scale(x)
    scale.set_weights([np.reshape(layer.gamma, (1, 1, -1, 1))])
    return y


def _scaled_residual(layer: Any, inputs: list) -> keras.KerasTensor:
    shortcut, residual = inputs
    scaled = keras.layers.Rescaling(layer.scale, name=f"{layer.name}_scale")(residual)
    return keras.layers.Add(name=layer.name)([shortcut, scaled])


def _sum(name: str, x: keras.KerasTensor, y: keras.KerasTensor | float) -> keras.KerasTensor:
    if isinstance(y, keras.KerasTensor):
        return keras.layers.Add(name=name)([x, y])
    return keras.layers.Rescaling(1.0, offset=y, name=name)(x)


def _depthwise(layer: keras.layers.Conv2D, x: keras.KerasTensor) -> keras.KerasTensor:
    """Replace a grouped convolution with one channel per group by DepthwiseConv2D.

    With the former, a training step takes 22 times as long (7x7, 32 channels of 8x8 pixels, 128
    images; Xeon, 2 cores, 3 runs).
    """
    config = layer.get_config()
    of_both = set(config) & set(keras.layers.DepthwiseConv2D(1).get_config()) - {"groups"}
    depthwise = keras.layers.DepthwiseConv2D.from_config({key: config[key] for key in of_both})
    y = depthwise(x)
    kernel, *bias = layer.get_weights()
    depthwise.set_weights([kernel.swapaxes(2, 3), *bias])
    return y


def _fixed_normalization(
    layer: keras.layers.Normalization, x: keras.KerasTensor
) -> keras.KerasTensor:
    """Store mean and variance as arguments: as weights, set_weights on a clone has no effect."""
    mean, variance = (np.ravel(value).tolist() for value in (layer.mean, layer.variance))
    config = layer.get_config() | {"mean": mean, "variance": variance}
    return keras.layers.Normalization.from_config(config)(x)
