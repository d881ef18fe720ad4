"""Cut points, on the real graphs of Keras Applications."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import PipelineError
from stages.nets import cut


@functools.cache
def net(name: str, size: int = 96) -> keras.Model:
    constructor = getattr(keras.applications, name)
    return constructor(include_top=False, weights=None, input_shape=(size, size, 3))


def test_every_cut_point_of_a_branching_net_splits_it_exactly() -> None:
    """A net with two branches, a skip connection and a bare operation in its graph."""
    keras.utils.set_random_seed(1)
    x = image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(x)
    a = keras.layers.Conv2D(4, 1, name="other_branch")(x)
    b = keras.layers.Conv2D(4, 3, padding="same", name="branch")(x)
    x = keras.ops.add(a, b)
    skip = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.Add(name="merged")([skip, keras.layers.Conv2D(4, 1, name="inner")(skip)])
    whole = keras.Model(image, keras.layers.Conv2D(2, 1, name="out")(x))

    stem, add, *rest = cut.cut_points(whole)
    assert (stem, rest) == ("stem", ["relu", "merged", "out"])
    images = np.random.default_rng(1).random((3, 8, 8, 3), np.float32)
    for point in (stem, add, *rest):
        prefix, suffix = cut.split(whole, point)
        joined = suffix(prefix(images)).numpy()
        np.testing.assert_allclose(joined, whole(images).numpy(), rtol=1e-5, atol=1e-6)


def test_no_cut_point_names_the_nearest() -> None:
    said = "'block_5_ad' is not a valid cut point of mobilenetv2_1.00_96; nearest: block_5_add, "
    with pytest.raises(PipelineError, match=said):
        cut.choose(net("MobileNetV2"), "block_5_ad")


@pytest.mark.parametrize(
    ("name", "setting", "chosen"),
    [
        ("MobileNetV2", 0.4, "block_5_add"),  # 12x12x32, as block_4_add, but later
        ("MobileNetV2", 0.5, "block_8_add"),
        ("MobileNetV2", "all", "out_relu"),
        ("MobileNetV2", 1.0, "block_16_project_BN"),  # a quarter of out_relu's activations
        ("MobileNetV2", "block_2_add", "block_2_add"),
        ("MobileNetV2", 0, "Conv1"),  # nothing before the first
        ("ResNet50", 0.4, "conv3_block3_out"),
    ],
)
def test_the_cut_is_chosen_by_the_share_that_is_frozen(
    name: str, setting: str | float, chosen: str
) -> None:
    assert cut.choose(net(name), setting) == chosen


@pytest.mark.parametrize("size", [80, 112, 224])
def test_the_image_size_does_not_change_what_is_chosen(size: int) -> None:
    """At 80 and 112 px maps are rounded up, which would make the last layers weigh more."""
    other = net("MobileNetV2", size)
    assert cut.choose(other, 0.4) == "block_5_add"
    at_96 = list(cut.frozen_fraction(net("MobileNetV2")).values())
    np.testing.assert_allclose(list(cut.frozen_fraction(other).values()), at_96)


def test_the_frozen_fraction_is_that_of_the_multiplications() -> None:
    x = image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="a")(x)  # 8 * 8 * 3 * 3 * 3 * 4 = 6912
    x = keras.layers.BatchNormalization(name="none")(x)
    x = keras.layers.DepthwiseConv2D(3, strides=2, padding="same", name="b")(x)  # 16 * 36 = 576
    x = keras.layers.SeparableConv2D(8, 3, padding="same", name="c")(x)  # 16 * (36 + 32) = 1088
    x = keras.layers.Dense(2, name="d")(x)  # 16 * 16 = 256
    total = 6912 + 576 + 1088 + 256
    small = keras.Model(image, x)
    shares = cut.frozen_fraction(small)
    assert list(shares) == ["a", "none", "b", "c", "d"]
    assert [round(s * total) for s in shares.values()] == [6912, 6912, 7488, 8576, 8832]
    assert cut.choose(small, 0.95) == "b"  # 0.848 is far below, and none is nearer


@settings(max_examples=20)
@given(share=st.floats(0, 1))
def test_every_share_chooses_a_cut_that_keeps_it(share: float) -> None:
    shares = cut.frozen_fraction(net("MobileNetV2"))
    chosen = cut.choose(net("MobileNetV2"), share)
    assert shares[chosen] <= share or chosen == next(iter(shares))
    assert shares[chosen] >= min(share - cut.WINDOW, max(shares.values())) - 1e-9
