"""What only a CPU needs to be fast: threads, bfloat16, layers that stand in for Keras's.

A stage calls `set_up`; `layers.for_training` asks for `stand_in`. With a GPU neither has an effect:
the same is computed, up to rounding. What each part gains: docs/performance.md.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import keras
import loky
import tensorflow as tf

from stages.runtime import description, gpus


def set_up(at_once: int = 1) -> bool:
    """Set threads; let TensorFlow convolve in bfloat16 if the processor has instructions for it.

    In bfloat16 weights, sums and statistics stay float32 (Kalamkar et al. 2019,
    https://arxiv.org/abs/1905.12322). On other processors it would be emulated, and is not used.

    Args:
        at_once: how many large operations can run at the same time. With no more processors than
            that, each has one thread: two halves of a batch have a core each, which is faster than
            two cores that share each operation. With more, all share all of them.

    Returns:
        Whether convolutions are in bfloat16.
    """
    if gpus():
        return False
    if loky.cpu_count() <= at_once:
        with contextlib.suppress(RuntimeError):  # it has computed already, as it can have in a test
            tf.config.threading.set_intra_op_parallelism_threads(1)
    if "avx512_bf16" not in description()["instructions"].split():
        return False
    # In oneDNN this one is slower in bfloat16 than in float32, by a factor of four.
    os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_ALLOWLIST_REMOVE"] = (
        "DepthwiseConv2dNativeBackpropInput"
    )
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    print("convolutions in bfloat16", flush=True)
    return True


def round_kernels(model: keras.Model) -> None:
    """Give a model that was trained in bfloat16 the kernels that its training steps computed with.

    A step rounds each kernel before it convolves. What is saved is used in float32, and with the
    kernels as they are that is not quite the net that was trained (docs/experiments.md).
    """
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:  # not biases, nor scales and offsets of a normalisation
            rounded = keras.ops.cast(variable, "bfloat16")
            variable.assign(keras.ops.cast(rounded, variable.dtype))


def stand_in(layer: Any) -> Any:
    """Return the class to train in the place of a layer's own: a faster one, or the same."""
    if not gpus():
        for kind in (FusedBatchNormalization, DepthwiseConv2D):
            if isinstance(layer, kind.__base__):
                return kind
    return type(layer)


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's BatchNormalization, computed by TensorFlow's fused operation.

    Keras computes it from a dozen elementary operations, a third of a training step on a CPU
    (MobileNetV2's suffix: 1.28 times the images a second when fused, median of three alternating
    runs on 2 cores).
    """

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Normalise (n, h, w, channels) by the batch if training, else by the moving averages."""
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


class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras's DepthwiseConv2D; with stride 1, the gradient by the input is another convolution.

    In bfloat16 that is three times as fast as TensorFlow's operation for it in float32, the faster
    of the two.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Convolve each channel of (n, h, w, channels) with a kernel of its own."""
        options = (self.strides, self.dilation_rate, self.depth_multiplier, self.padding)
        plain = options == ((1, 1), (1, 1), 1, "same") and not self.use_bias
        if not plain or any(size % 2 == 0 for size in self.kernel_size):
            return super().call(inputs)
        return self.activation(_depthwise(inputs, tf.convert_to_tensor(self.kernel)))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _depthwise(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    options = {"strides": [1, 1, 1, 1], "padding": "SAME"}

    def gradients(by_y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # What reached y from x through the kernel comes back through the kernel turned round.
        by_x = tf.nn.depthwise_conv2d(by_y, kernel[::-1, ::-1], **options)
        by_kernel = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=x, filter_sizes=kernel.shape, out_backprop=by_y, **options
        )
        return by_x, by_kernel

    return tf.nn.depthwise_conv2d(x, kernel, **options), gradients
