"""The two parts of a backbone at its cut: frozen and run once, and trained."""

import keras

from stages.transfer import cuts
from stages.transfer.backbones import on_raw_images
from stages.transfer.folding import folded


def frozen_part(net: keras.Model, name: str, image_size: int, cut: cuts.Cut) -> keras.Model:
    """Return what comes before a cut, made for one quick pass.

    Args:
        net: the backbone, (n, image_size, image_size, 3) -> (n, h, w, channels).
        name: the application, a key of `APPLICATIONS`.
        image_size: side of the net's input, in pixels.
        cut: as `cuts.choose` takes it, or "none".

    Returns:
        Raw images (n, 32, 32, 3) in [0, 255] -> activations at the cut; with "none" these are the
        images themselves.

    Raises:
        PipelineError: `cut` names no cut point of the net.
    """
    if cut == "none":
        images = keras.Input((32, 32, 3), name="images")
        return keras.Model(images, keras.layers.Identity()(images), name="frozen")
    prefix, _ = cuts.split(net, cuts.choose(net, cut))
    return on_raw_images(folded(prefix), name, image_size)


def trained_part(net: keras.Model, name: str, image_size: int, cut: cuts.Cut) -> keras.Model:
    """Return what comes after a cut, the suffix, and freeze the layers of `net` before it.

    Takes what `frozen_part` takes; the suffix shares its layers and weights with `net`.

    Returns:
        Activations at the cut -> (n, h, w, channels); with "none" raw images go in.
    """
    if cut == "none":
        return on_raw_images(net, name, image_size)
    prefix, suffix = cuts.split(net, cuts.choose(net, cut))
    prefix.trainable = False
    return suffix


def described(net: keras.Model, cut: cuts.Cut) -> str:
    """Say where a setting of `backbone.cut` cuts a net, and how much of it that freezes."""
    if cut == "none":
        return "none, all of the net is fine-tuned"
    at = cuts.choose(net, cut)
    return f"{at}, {cuts.frozen_share(net)[at]:.0%} of the forward pass is frozen"
