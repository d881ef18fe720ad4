"""Folding: fewer operations, the same activations."""

import keras
import numpy as np
import pytest

from stages.transfer import backbones, cuts, folding


def with_a_past(net: keras.Model) -> keras.Model:
    """Give a net's BatchNormalization averages and scales as training leaves them."""
    rng = np.random.default_rng(1)
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return net


@pytest.mark.parametrize(
    ("name", "size", "left"),
    [
        ("MobileNetV2", 32, 0),
        ("Xception", 71, 0),  # separable convolutions
        ("InceptionV3", 75, 0),  # no scale
        ("DenseNet121", 32, 62),  # half of them stand before the convolution
        ("ResNet50", 32, 0),  # convolutions with a bias
    ],
)
def test_a_folded_net_gives_the_same(name: str, size: int, left: int) -> None:
    keras.utils.set_random_seed(1)
    net = with_a_past(backbones.build(name, size))
    fast = folding.folded(net)
    kept = [x for x in fast.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(kept) == left
    images = np.random.default_rng(1).normal(0, 1, (2, size, size, 3)).astype(np.float32)
    expected = net(images).numpy()
    assert expected.std() > 0
    np.testing.assert_allclose(
        fast(images).numpy(), expected, rtol=1e-3, atol=1e-4 * expected.std()
    )


def test_every_prefix_folds_and_the_net_stays_as_it_was() -> None:
    net = with_a_past(backbones.build("MobileNetV2", 32))
    before = [w.copy() for w in net.get_weights()]
    images = np.random.default_rng(1).normal(0, 1, (2, 32, 32, 3)).astype(np.float32)
    for cut in ("Conv1", "bn_Conv1", "block_1_depthwise", "block_2_add", "block_5_project_BN"):
        if cut not in cuts.cut_points(net):
            continue
        prefix, _ = cuts.split(net, cut)
        np.testing.assert_allclose(
            folding.folded(prefix)(images), prefix(images), rtol=1e-3, atol=1e-4
        )
    for a, b in zip(before, net.get_weights(), strict=True):
        assert (a == b).all()


def test_a_convolution_that_something_else_reads_is_left_alone() -> None:
    x = image = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(3, 1, name="read_twice")(x)
    y = keras.layers.BatchNormalization()(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.Conv2D(3, 1, activation="relu", name="not_linear")(x)
    net = keras.Model(image, keras.layers.BatchNormalization()(x))
    assert folding.foldable(net) == []
