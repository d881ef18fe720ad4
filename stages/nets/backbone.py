"""The backbone: an application, cut into a prefix that is frozen and a suffix that is trained."""

from pathlib import Path

import keras

from stages import params
from stages.nets import cut, pretrained
from stages.nets.applications import APPLICATIONS
from stages.nets.folding import folded
from stages.nets.graph import pooled
from stages.nets.preprocessing import on_raw_images


class Backbone:
    """An application without its top, and where it is cut.

    Args:
        settings: of params.yaml.
        image_shape: of the raw images, (height, width, 3).
        weights: a weights file for the application; None leaves it random.

    Attributes:
        cut: the name of the cut point; None if nothing is frozen; the suffix then takes raw images.
        suffix: activations at the cut -> the last feature map, (n, h, w, channels).

    Raises:
        PipelineError: `settings.last_layer` is not a layer, `settings.cut` not a cut point, or
            the weights are not the application's.
    """

    def __init__(
        self,
        settings: params.Backbone,
        image_shape: tuple[int, ...],
        weights: Path | None = None,
    ) -> None:
        self._image_shape = image_shape
        self._preprocessing = APPLICATIONS[settings.name].preprocessing
        self._net = pretrained.build(settings.name, settings.image_size, weights)
        if settings.last_layer != "all":
            self._net = cut.truncated(self._net, settings.last_layer)
        if settings.cut == "none":
            self.cut = None
            self.suffix = self.on_raw_images()
        else:
            self.cut = cut.choose(self._net, settings.cut)
            self._prefix, self.suffix = cut.split(self._net, self.cut)
            self._prefix.trainable = False  # in the saved model too; training uses only the suffix

    def __str__(self) -> str:
        if self.cut is None:
            return f"{self._net.name}, all of it fine-tuned"
        fraction = cut.frozen_fraction(self._net)[self.cut]
        return f"{self._net.name} cut at {self.cut}, {fraction:.0%} of the forward pass frozen"

    def frozen_prefix(self) -> keras.Model:
        """Return the prefix for inference: raw images -> activations at the cut.

        BatchNormalization is folded. If nothing is frozen, it returns the images themselves.
        """
        if self.cut is None:
            images = keras.Input(self._image_shape, name="images")
            return keras.Model(images, keras.layers.Identity()(images))
        return on_raw_images(folded(self._prefix), self._preprocessing, self._image_shape)

    def frozen_suffix(self) -> keras.Model:
        """Return the suffix for inference, BatchNormalization folded: activations -> features."""
        return folded(pooled(self.suffix))

    def on_raw_images(self) -> keras.Model:
        """Return the whole: raw images (n, *image_shape) in [0, 255] -> the last feature map.

        It shares its layers with the suffix.
        """
        return on_raw_images(self._net, self._preprocessing, self._image_shape)
