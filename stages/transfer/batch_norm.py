"""BatchNormalization while fine-tuning: frozen, adapting or re-estimated, and as one operation.

ImageNet nets keep 0.99 or more of their moving averages a step. After a short training these still
describe ImageNet while the weights have moved on, and inference falls far below training.

Keras computes BatchNormalization from a dozen elementary operations, a third of a training step on
a CPU (measured on MobileNetV2's suffix: 1.28 times the images a second with TensorFlow's fused
operation, median of three alternating runs on 2 cores). The net that is saved keeps Keras's layers.
"""

from collections.abc import Iterable
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

# frozen: the averages and the scales of ImageNet stay, also while training.
# adapting: batches are normalised by their own statistics, and the averages follow them.
# re-estimated: as adapting; after training the averages are measured anew with the final weights.
Mode = Literal["frozen", "adapting", "re-estimated"]


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's BatchNormalization, its training step computed by TensorFlow's fused operation.

    Attributes:
        measuring: take the statistics of the batch in inference too, to re-estimate the averages.
    """

    measuring = False

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Normalise (n, h, w, channels) by the batch if training, else by the moving averages."""
        by_batch = (training and self.trainable) or self.measuring
        if not by_batch or inputs.shape.rank != 4 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        step = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma if self.scale else tf.ones([channels]),
            offset=self.beta if self.center else tf.zeros([channels]),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation divides by n - 1, Keras by n.
        n = tf.cast(tf.size(inputs) / channels, tf.float32)
        variance = step.batch_variance * (n - 1) / n
        kept = 0.0 if self.measuring else self.momentum
        self.moving_mean.assign(self.moving_mean * kept + step.batch_mean * (1 - kept))
        self.moving_variance.assign(self.moving_variance * kept + variance * (1 - kept))
        return step.y


def for_training(model: keras.Model, mode: Mode, momentum: float) -> keras.Model:
    """Return a model to be trained in the place of another, whose layers it shares.

    Only its BatchNormalization layers are its own: fused, frozen if asked. They are frozen as
    layers, because Keras 3.15 ignores `base(x, training=False)` in a model that `fit` trains.

    Args:
        model: a functional model, nested ones in it allowed.
        mode: what its BatchNormalization does.
        momentum: share of the old moving average that a step keeps, in [0, 1).

    Returns:
        A model with the same weights: `copy_weights(trained, model)` brings back what training it
        has changed.
    """

    def own(operation: Any) -> Any:
        if not isinstance(operation, keras.layers.BatchNormalization):
            return operation
        config = {"momentum": momentum, "trainable": mode != "frozen"}
        return FusedBatchNormalization.from_config(operation.get_config() | config)

    trained = keras.models.clone_model(model, clone_function=own, recursive=True)
    copy_weights(model, trained)
    return trained


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy the weights of each layer to the layer of the same name, in nested models too."""
    own = {layer.name: layer for layer in _layers(target)}
    for layer in _layers(source):
        if layer.weights and own[layer.name] is not layer:
            own[layer.name].set_weights(layer.get_weights())


def re_estimate(model: keras.Model, batches: Iterable[npt.NDArray[np.float32]]) -> None:
    """Set the moving averages to the mean over some batches, the weights being what they are.

    The averages that training leaves are of its last few batches, under weights that still moved
    (Wu & Johnson 2021, https://arxiv.org/abs/2105.07576, section 3).

    Args:
        model: from `for_training`, trained.
        batches: inputs of the model, (n, ...) each, of the size it was trained with.
    """
    norms = [x for x in _layers(model) if isinstance(x, FusedBatchNormalization)]
    if not norms:  # as in VGG
        return
    sums = [[np.zeros(norm.moving_mean.shape) for _ in range(2)] for norm in norms]
    count = 0
    for norm in norms:
        norm.measuring = True
    infer = tf.function(lambda x: model(x, training=False), autograph=False)
    for batch in batches:
        infer(batch)
        count += 1
        for norm, (mean, variance) in zip(norms, sums, strict=True):
            mean += norm.moving_mean.numpy()
            variance += norm.moving_variance.numpy()
    for norm, (mean, variance) in zip(norms, sums, strict=True):
        norm.measuring = False
        norm.moving_mean.assign(mean / count)
        norm.moving_variance.assign(variance / count)


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [x for x in model._flatten_layers(include_self=False) if not isinstance(x, keras.Model)]
