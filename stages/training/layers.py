"""Layers that stand in for Keras's while the suffix is trained. What is saved has Keras's own.

BatchNormalization is frozen or adapting. ImageNet nets keep 0.99 or more of their moving averages a
step. After a short training these still describe ImageNet while the weights have moved on, and
inference falls far below training. Keras computes BatchNormalization from a dozen elementary
operations, a third of a training step on a CPU (measured on MobileNetV2's suffix: 1.28 times the
images a second with TensorFlow's fused operation, median of three alternating runs on 2 cores).

Of a depthwise convolution with stride 1 the gradient by the input is computed as another one: in
bfloat16 that is three times as fast as TensorFlow's operation for it in float32, the faster of the
two. And a batch is computed in halves (docs/performance.md).
"""

from collections.abc import Callable
from typing import Any, Literal

import keras
import tensorflow as tf

# frozen: the averages and the scales of ImageNet stay, also while training.
# adapting: batches are normalised by their own statistics, and the averages follow them.
Mode = Literal["frozen", "adapting"]


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's BatchNormalization, computed by TensorFlow's fused operation."""

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
    """Keras's DepthwiseConv2D with a faster gradient, where its stride is 1."""

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


class InHalves(keras.layers.Layer):
    """A model that computes the two halves of a batch at the same time.

    On two cores, with one thread for each operation (`set_up`), each half has a core, which is
    faster than two cores that share each operation. In training, BatchNormalization normalises each
    half by itself and its averages are updated by both (Ghost Batch Normalization, Hoffer et al.
    2017, https://arxiv.org/abs/1705.08741, section 4).
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self._model = model

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Compute (n, ...) as two halves; if n is odd, both have the image in the middle."""
        count = tf.shape(inputs)[0]
        first = self._model(inputs[: count - count // 2], training=training)
        second = self._model(inputs[count // 2 :], training=training)
        # No half is ever empty: of no images, oneDNN's convolution has a wrong shape.
        return tf.concat([first[: count // 2], second], axis=0)


def for_training(model: keras.Model, mode: Mode, momentum: float) -> keras.Model:
    """Return a model to be trained in the place of another, whose layers it shares.

    Only BatchNormalization and depthwise convolutions are its own. The former are frozen, if asked,
    as layers, because Keras 3.15 ignores `base(x, training=False)` in a model that `fit` trains.

    Args:
        model: a functional model, nested ones in it allowed.
        mode: what its BatchNormalization does.
        momentum: share of the old moving average that is kept at each update, in [0, 1).

    Returns:
        A model with the same weights: `copy_weights(trained, model)` brings back what training it
        has changed.
    """

    def own(operation: Any) -> Any:
        if isinstance(operation, keras.layers.BatchNormalization):
            config = operation.get_config() | {"momentum": momentum, "trainable": mode != "frozen"}
            # Frozen, the fused operation has no reproducible gradient on a GPU.
            kind = type(operation) if mode == "frozen" else FusedBatchNormalization
            return kind.from_config(config)
        if isinstance(operation, keras.layers.DepthwiseConv2D):
            return DepthwiseConv2D.from_config(operation.get_config())
        return operation

    trained = keras.models.clone_model(model, clone_function=own, recursive=True)
    copy_weights(model, trained)
    return trained


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy the weights of each layer to the layer of the same name, in nested models too."""
    own = {layer.name: layer for layer in _layers(target)}
    for layer in _layers(source):
        if layer.weights and own[layer.name] is not layer:
            own[layer.name].set_weights(layer.get_weights())


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [
        inner
        for layer in model.layers
        for inner in (_layers(layer) if isinstance(layer, keras.Model) else [layer])
    ]
