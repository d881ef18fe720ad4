"""The backbone: an application, cut into a prefix that is frozen and a suffix that is trained."""

from pathlib import Path
from typing import TYPE_CHECKING

import keras

from stages.nets import cut, pretrained, saved_model, trained_layers
from stages.nets.applications import APPLICATIONS
from stages.nets.folding import folded
from stages.nets.preprocessing import IMAGE_SHAPE, on_raw_images

if TYPE_CHECKING:
    from stages import params


class Backbone:
    """An application without its top, and where it is cut.

    Args:
        settings: name, image_size, last_layer and cut, as in params.yaml.
        weights: a weights file for the application without its top; None leaves it random.

    Attributes:
        cut: the name of the cut point; None if nothing is frozen, and raw images are trained on.

    Raises:
        PipelineError: `settings.last_layer` is no layer, `settings.cut` no cut point, or the
            weights are not the application's.
    """

    def __init__(self, settings: "params.Backbone", weights: Path | None = None) -> None:
        self._image_size = settings.image_size
        self._preprocessing = APPLICATIONS[settings.name].preprocessing
        self._net = pretrained.build(settings.name, settings.image_size, weights)
        if settings.last_layer != "all":
            self._net = cut.truncated(self._net, settings.last_layer)
        if settings.cut == "none":
            self.cut = None
            self._suffix = self._on_raw_images(self._net)
        else:
            self.cut = cut.choose(self._net, settings.cut)
            self._prefix, self._suffix = cut.split(self._net, self.cut)
            self._prefix.trainable = False  # in cifar10.h5; here it is in no model that is trained
        self._in_training = self._suffix

    def __str__(self) -> str:
        if self.cut is None:
            return f"{self._net.name}, all of it fine-tuned"
        share = cut.frozen_share(self._net)[self.cut]
        return f"{self._net.name} cut at {self.cut}, {share:.0%} of the forward pass frozen"

    def frozen_prefix(self) -> keras.Model:
        """Return the prefix, made for one quick pass.

        Returns:
            Raw images (n, 32, 32, 3) in [0, 255] -> activations at the cut, the images themselves
            if nothing is frozen.
        """
        if self.cut is None:
            images = keras.Input(IMAGE_SHAPE, name="images")
            return keras.Model(images, keras.layers.Identity()(images))
        return self._on_raw_images(folded(self._prefix))

    def frozen_suffix(self) -> keras.Model:
        """Return the suffix as it is, made for one quick pass.

        Returns:
            Activations at the cut -> pooled features, float32 (n, channels).
        """
        pooled = keras.layers.GlobalAveragePooling2D(name="pooling")(self._suffix.output)
        return folded(keras.Model(self._suffix.input, pooled))

    def trainable_suffix(self, mode: trained_layers.Mode, momentum: float) -> keras.Model:
        """Return the suffix to be trained; `join` takes over what training has made of it.

        Args:
            mode: what BatchNormalization does meanwhile.
            momentum: share of the old moving average that is kept at each update, in [0, 1).

        Returns:
            Activations at the cut -> the last feature map, float32 (n, h, w, channels).
        """
        self._in_training = trained_layers.for_training(self._suffix, mode, momentum)
        return self._in_training

    def join(self, head: keras.layers.Dense, test_time_flip: bool) -> keras.Model:
        """Join prefix, suffix and head into one model that takes raw images.

        Args:
            head: the trained last layer, pooled features -> logits.
            test_time_flip: average the pooled features of the image and of its mirror image,
                which doubles the work of inference.

        Returns:
            A compiled model: images (n, 32, 32, 3) in [0, 255] -> probabilities (n, classes).
        """
        trained_layers.copy_weights(self._in_training, self._suffix)
        return saved_model.classifier(self._on_raw_images(self._net), head, test_time_flip)

    def _on_raw_images(self, net: keras.Model) -> keras.Model:
        return on_raw_images(net, self._preprocessing, self._image_size)
