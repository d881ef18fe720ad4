"""What only a CPU needs to be fast: bfloat16, layers that replace Keras's.

A stage calls `set_up`; `layers.for_training` calls `stand_in`. With a GPU neither has an effect:
the same is computed, up to rounding. What each part gains: docs/performance.md. The memory
allocator is set in stages/__init__.py, before TensorFlow is imported.
"""

import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from stages.runtime import description, gpus


def set_up() -> bool:
    """Let TensorFlow convolve in bfloat16 if the processor has instructions for it.

    In bfloat16 weights, sums and statistics stay float32 (Kalamkar et al. 2019,
    https://arxiv.org/abs/1905.12322). On other processors it would be emulated, and is not used;
    nor if ONEDNN_MAX_CPU_ISA is set, which limits instructions to simulate another processor.

    Returns:
        Whether convolutions are in bfloat16.
    """
    if gpus():
        return False
    found = description()
    if "ONEDNN_MAX_CPU_ISA" in found or "avx512_bf16" not in found["instructions"].split():
        return False
    # This gradient with respect to the input is slower in bfloat16, by a factor of four.
    os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_ALLOWLIST_REMOVE"] = (
        "DepthwiseConv2dNativeBackpropInput"
    )
    # Between operations in bfloat16, ClipByValue is computed in bfloat16, too.
    os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_CLEARLIST_ADD"] = "ClipByValue"
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    print("convolutions in bfloat16", flush=True)
    return True


def round_kernels(model: keras.Model) -> None:
    """Round trained kernels to bfloat16, the values that training steps used.

    A step rounds each kernel before it convolves. Unrounded, the float32 network differs slightly
    from the one optimized (docs/experiments.md).
    """
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:  # not biases, nor scales and offsets of a normalization
            rounded = keras.ops.cast(variable, "bfloat16")
            variable.assign(keras.ops.cast(rounded, variable.dtype))


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's BatchNormalization, computed by TensorFlow's fused operation.

    Keras computes it from a dozen elementary operations, a third of a training step on a CPU
    (MobileNetV2's suffix: 1.28 times the images a second when fused, median of three alternating
    runs on 2 cores).
    """

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Normalize (n, h, w, channels) by the batch if training, else by the moving averages."""
        if inputs.shape.rank != 4 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        by_batch = bool(training and self.trainable)
        channels = inputs.shape[-1]
        step = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma if self.scale else tf.ones([channels]),
            offset=self.beta if self.center else tf.zeros([channels]),
            mean=tf.zeros([0]) if by_batch else self.moving_mean,
            variance=tf.zeros([0]) if by_batch else self.moving_variance,
            epsilon=self.epsilon,
            is_training=by_batch,
        )
        if by_batch:
            # The operation divides by n - 1, Keras by n.
            n = tf.cast(tf.size(inputs) / channels, tf.float32)
            variance = step.batch_variance * (n - 1) / n
            kept = self.momentum
            self.moving_mean.assign(self.moving_mean * kept + step.batch_mean * (1 - kept))
            self.moving_variance.assign(self.moving_variance * kept + variance * (1 - kept))
        return step.y


class ReLU(keras.layers.ReLU):
    """Keras's ReLU; in training, ReLU6 is computed by another operation, with the same result.

    TensorFlow's Relu6 takes four times as long in bfloat16. Outside training it is the faster one.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Clip (n, ...) to [0, 6]."""
        if not training or (self.max_value, self.negative_slope, self.threshold) != (6, 0, 0):
            return super().call(inputs)
        return _relu6(inputs)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _relu6(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    def gradient(by_y: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.Relu6Grad(gradients=by_y, features=x)

    low, high = tf.zeros([], x.dtype), tf.constant(6, x.dtype)
    return tf.raw_ops.ClipByValue(t=x, clip_value_min=low, clip_value_max=high), gradient


class Conv2D(keras.layers.Conv2D):
    """Keras's Conv2D; with kernels of 1x1, a matrix product.

    Its gradient is faster, with AMX by a factor of up to six.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolve (n, h, w, channels)."""
        if (self.kernel_size, self.strides, self.groups) != ((1, 1), (1, 1), 1):
            return super().convolution_op(inputs, kernel)
        return tf.tensordot(inputs, kernel[0, 0], 1)


STAND_INS = {
    keras.layers.BatchNormalization: FusedBatchNormalization,
    keras.layers.ReLU: ReLU,
    keras.layers.Conv2D: Conv2D,
}


def stand_in(layer: Any) -> Any:
    """Return the class to train in the place of a layer's own: a faster one, or the same."""
    return type(layer) if gpus() else STAND_INS.get(type(layer), type(layer))
