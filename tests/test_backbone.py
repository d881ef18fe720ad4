"""The backbone: what the cut freezes stays, what is trained is in the model that is saved."""

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from stages import classifier
from stages.errors import PipelineError
from stages.nets import cut, pretrained
from stages.nets.backbone import Backbone
from stages.nets.graph import pooled
from stages.nets.preprocessing import on_raw_images
from stages.training import layers
from stages.training.head import new_head, with_head

IMAGES = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3)).astype(np.float32)


def cut_at(cut: str | float, weights: Path | None = None, last_layer: str = "all") -> Backbone:
    settings = {"name": "MobileNet", "image_size": 32, "last_layer": last_layer, "cut": cut}
    return Backbone(SimpleNamespace(**settings), (32, 32, 3), weights)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNet's, random, but with moving averages of images, as a trained net has."""
    keras.utils.set_random_seed(3)
    net = pretrained.original("MobileNet", 32)
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    net(IMAGES / 127.5 - 1, training=True)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    pretrained.save_weights(net, path, source="")
    return path


@pytest.mark.parametrize(
    ("cut", "mode"),
    [("none", "adapting"), (0.8, "adapting"), (0.8, "frozen"), ("all", "adapting")],
)
def test_training_moves_the_suffix_in_the_join_and_nothing_else(
    cut: str | float, mode: layers.Mode, weights: Path
) -> None:
    keras.utils.set_random_seed(4)
    backbone = cut_at(cut, weights)
    activations = backbone.frozen_prefix()(IMAGES)
    head = new_head(10)
    suffix = layers.for_training(backbone.suffix, mode, 0.9)
    model = with_head(pooled(suffix), head)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    for _ in range(2):  # the head is zero at first, and no gradient comes through it
        model.train_on_batch(activations, np.eye(10)[:8])

    layers.copy_weights(suffix, backbone.suffix)
    joined = classifier.classifier(backbone.on_raw_images(), head, test_time_flip=False)
    expected = keras.ops.softmax(model(activations))
    found = joined(IMAGES).numpy()
    assert np.ptp(found, axis=0).max() > 1e-3  # it tells the images apart at all
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    before = pretrained.build("MobileNet", 32, weights)

    def changed(layer: str) -> bool:
        pairs = (before.get_layer(layer).get_weights(), joined.get_layer(layer).get_weights())
        return any((a != b).any() for a, b in zip(*pairs, strict=True))

    assert changed("conv1") == (cut == "none")
    assert changed("conv1_bn") == (cut == "none" and mode == "adapting")
    assert changed("conv_pw_13") == (cut != "all")
    assert changed("conv_pw_13_bn") == (cut != "all" and mode == "adapting")


@pytest.mark.parametrize("cut", ["none", 0.8, "all"])
def test_the_frozen_parts_one_after_the_other_are_the_net(cut: str | float, weights: Path) -> None:
    backbone = cut_at(cut, weights)
    activations = backbone.frozen_prefix()(IMAGES)
    found = backbone.frozen_suffix()(activations)
    net = on_raw_images(pretrained.build("MobileNet", 32, weights), "tf", (32, 32, 3))
    expected = net(IMAGES).numpy().mean((1, 2))
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    if cut == "none":  # what is stored is the images themselves
        np.testing.assert_array_equal(activations, IMAGES)


def test_it_says_where_it_is_cut() -> None:
    assert str(cut_at("none")) == "mobilenet_1.00_224, all of it fine-tuned"
    said = "mobilenet_1.00_224 cut at conv_pw_13_relu, 100% of the forward pass frozen"
    assert str(cut_at("all")) == said


def test_what_comes_after_the_last_layer_is_left_out(weights: Path) -> None:
    backbone = cut_at("conv_pw_8_relu", weights, last_layer="conv_pw_10_relu")
    head = new_head(10)
    head.build((None, 512))
    joined = classifier.classifier(backbone.on_raw_images(), head, test_time_flip=False)
    names = [layer.name for layer in joined.layers]
    assert names[-3:] == ["conv_pw_10_relu", "pooling", "predictions"]
    found = keras.Model(joined.input, joined.get_layer("pooling").output)(IMAGES).numpy()
    whole = pretrained.build("MobileNet", 32, weights)
    part = keras.Model(whole.input, whole.get_layer("conv_pw_10_relu").output)
    expected = part(IMAGES / 127.5 - 1).numpy().mean((1, 2))
    assert np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["conv_pw_1_rel", "input_layer"])
def test_a_last_layer_that_is_none_names_the_nearest(name: str) -> None:
    said = f"backbone.last_layer = '{name}' is not a layer of .* nearest: .*conv_.*or all"
    with pytest.raises(PipelineError, match=said):
        cut_at(0.4, last_layer=name)


def test_a_last_layer_without_maps_is_none() -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="maps")(image)
    pooled = keras.layers.GlobalAveragePooling2D(name="vector")(x)
    net = keras.Model(image, keras.layers.Dense(2)(pooled))
    assert cut.truncated(net, "maps").output_shape == (None, 6, 6, 4)
    with pytest.raises(PipelineError, match=r"'vector' is not a layer .*; nearest: maps \(or all"):
        cut.truncated(net, "vector")
