"""The suffix while it is trained: BatchNormalization as the recipe has it, a batch in halves.

BatchNormalization is frozen or adapting. ImageNet networks use momentum 0.99 or more: after short
training, the moving averages do not match the updated weights, and inference is much less accurate
than training mode. What is saved has Keras's own layers.
"""

from typing import Any, Literal

import keras
import tensorflow as tf

from stages.training import cpu

# frozen: the averages and the scales of ImageNet stay, also while training.
# adapting: batches are normalized by their own statistics, and the averages follow them.
Mode = Literal["frozen", "adapting"]


class InHalves(keras.layers.Layer):
    """A model that computes the two halves of a batch separately.

    In training, BatchNormalization normalizes each half by itself and its averages are updated by
    both (Ghost Batch Normalization, Hoffer et al. 2017, https://arxiv.org/abs/1705.08741, section
    4). On two cores they are computed at the same time (`runtime.set_up`).
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self._model = model

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Compute (n, ...) as two halves; if n is odd, the image in the middle is in both."""
        count = tf.shape(inputs)[0]
        first = self._model(inputs[: count - count // 2], training=training)
        second = self._model(inputs[count // 2 :], training=training)
        # No half is ever empty: of no images, oneDNN's convolution has a wrong shape.
        return tf.concat([first[: count // 2], second], axis=0)


def for_training(model: keras.Model, mode: Mode, momentum: float) -> keras.Model:
    """Return a trainable copy that shares all layers except BatchNormalization.

    On a CPU, it does not share what `cpu.stand_in` replaces either. Frozen BatchNormalization is
    made non-trainable layer by layer, because Keras 3.15 ignores `base(x, training=False)` in a
    model that `fit` trains.

    `copy_weights(trained, model)` copies back what training has changed.

    Args:
        model: a functional model, nested ones in it allowed.
        mode: what its BatchNormalization does.
        momentum: fraction of the old moving average that is kept at each update, in [0, 1).
    """

    def own(operation: Any) -> Any:
        kind = cpu.stand_in(operation)
        changes = {}
        if isinstance(operation, keras.layers.BatchNormalization):
            changes = {"momentum": momentum, "trainable": mode != "frozen"}
        elif kind is type(operation):
            return operation
        return kind.from_config(operation.get_config() | changes)

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
