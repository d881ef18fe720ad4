"""Folding: a frozen net's BatchNormalization becomes part of the convolutions before it.

With fixed averages BatchNormalization is a multiplication and an addition per channel, which a
convolution's kernel and bias can do (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section
3.2). Keras computes them as separate operations, which takes about as long as the convolutions on
a CPU. For frozen passes and inference: what is trained or saved keeps its BatchNormalization.
"""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from stages.nets.graph import pairs

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)


def folded(net: keras.Model) -> keras.Model:
    """Return a net equivalent in inference to a flat functional one, up to float32 rounding.

    It has fewer operations; layers that are not folded are shared. No layer may be used twice.
    """
    folds = foldable(net)
    norm_of = {convolution.name: norm for convolution, norm in folds}
    gone = {norm.name for _, norm in folds}

    def own(operation: Any) -> Any:
        if operation.name not in norm_of:
            return operation
        config = operation.get_config() | {"use_bias": True}
        return type(operation).from_config(config)

    def call(operation: Any, *arguments: Any, **options: Any) -> Any:
        return arguments[0] if operation.name in gone else operation(*arguments, **options)

    fast = keras.models.clone_model(net, clone_function=own, call_function=call)
    for convolution, norm in folds:
        fast.get_layer(convolution.name).set_weights(merged(convolution, norm))
    return fast


def foldable(net: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Return (convolution, BatchNormalization) pairs that can be folded."""
    return [
        (convolution, norm)
        for convolution, norm in pairs(net)
        if isinstance(norm, keras.layers.BatchNormalization)
        and isinstance(convolution, CONVOLUTIONS)
        and convolution.activation is keras.activations.linear
    ]


def merged(
    convolution: keras.layers.Layer, norm: keras.layers.BatchNormalization
) -> list[npt.NDArray[np.float64]]:
    """Return the weights, bias last, of a convolution that includes the normalization after it."""
    *kernels, last = [np.asarray(k, np.float64) for k in convolution.get_weights()]
    bias = np.zeros(1)
    if convolution.use_bias:
        bias, last = last, kernels.pop()
    mean, variance = (np.float64(w) for w in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon) * (np.float64(norm.gamma) if norm.scale else 1)
    offset = np.float64(norm.beta) if norm.center else 0
    # The last axes of a kernel are its output channels; a depthwise one has two of them.
    channels = 2 if isinstance(convolution, keras.layers.DepthwiseConv2D) else 1
    return [*kernels, last * scale.reshape(last.shape[-channels:]), (bias - mean) * scale + offset]
