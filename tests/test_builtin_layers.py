"""Built-in layers in the place of parts that Keras saves and cannot load: equal, and loaded."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from keras.src.applications.convnext import LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from stages.errors import PipelineError
from stages.nets.builtin_layers import rewritten

IMAGES = np.random.default_rng(1).normal(size=(5, 8, 8, 6)).astype(np.float32)
Middle = Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]
NOT_LOADED: dict[str, Middle] = {
    "a class of ConvNeXt's": lambda x, _: LayerScale(1e-6, 6, name="part")(x),
    "a class of Inception-ResNet's": lambda x, y: CustomScaleLayer(0.17, name="part")([x, y]),
    "a sum": lambda x, y: x + y,
    "a sum with a constant": lambda x, _: x + 3.0,
    "a product with a constant": lambda x, _: x * (1.0 / 6.0),
}
LOADED: dict[str, Middle] = {
    "grouped": lambda x, _: keras.layers.Conv2D(
        6, 3, strides=2, padding="same", groups=6, activation="relu", name="part"
    )(x),
    "grouped, no bias": lambda x, _: keras.layers.Conv2D(
        6, 5, groups=6, use_bias=False, name="part"
    )(x),
    "adapted": lambda x, _: keras.layers.Normalization(name="part")(x),
}


def net(middle: Middle) -> keras.Model:
    """Return a net with the part between two convolutions, no weight at its initial value."""
    image = keras.Input((8, 8, 6))
    x = keras.layers.Conv2D(6, 3, padding="same", name="before")(image)
    y = keras.layers.BatchNormalization(name="other")(x)
    whole = keras.Model(image, keras.layers.Conv2D(4, 1, name="after")(middle(x, y)), name="net")
    rng = np.random.default_rng(2)
    for layer in whole.layers:  # file after file, so that Normalization takes what it is given
        layer.load_own_variables(
            {str(i): rng.uniform(0.2, 1, w.shape) for i, w in enumerate(layer.weights)}
        )
    return whole


@pytest.mark.parametrize("part", NOT_LOADED | LOADED)
def test_what_is_rewritten_computes_the_same_and_loads(part: str, tmp_path: Path) -> None:
    whole = net((NOT_LOADED | LOADED)[part])
    whole.save(tmp_path / "plain.h5")
    expected = whole(IMAGES).numpy()
    if part in NOT_LOADED:
        # Where this loads, Keras has been mended, and the part need not be rewritten any more.
        with pytest.raises((TypeError, ValueError), match=r"Unknown layer|positional arguments"):
            keras.models.load_model(tmp_path / "plain.h5")

    ours = rewritten(whole)
    assert rewritten(ours) is ours
    np.testing.assert_allclose(ours(IMAGES), expected, rtol=1e-5, atol=1e-5)
    ours.save(tmp_path / "ours.h5")
    loaded = keras.models.load_model(tmp_path / "ours.h5")
    np.testing.assert_allclose(loaded(IMAGES), expected, rtol=1e-5, atol=1e-5)
    clone = keras.models.clone_model(ours)
    clone.set_weights(ours.get_weights())
    np.testing.assert_allclose(clone(IMAGES), expected, rtol=1e-5, atol=1e-5)

    assert [w.path for w in ours.trainable_weights] == [w.path for w in clone.trainable_weights]
    trained = [sum(w.shape.num_elements() for w in m.trainable_weights) for m in (whole, ours)]
    assert trained[0] == trained[1]
    assert {op.name for op in whole.operations} <= {op.name for op in ours.operations}


@settings(max_examples=100)
@example(side=8, padding=(0, 1), kernel=3, strides=2, dilation=1, mode="valid", read_again=True)
@example(side=9, padding=(1, 1), kernel=3, strides=1, dilation=2, mode="valid", read_again=False)
@given(
    st.integers(4, 9),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from(["valid", "valid", "same"]),
    st.booleans(),
)
def test_padding_changes_no_bit(
    side: int,
    padding: tuple[int, int],
    kernel: int,
    strides: int,
    dilation: int,
    mode: str,
    read_again: bool,
) -> None:
    """Whether the convolution after it can pad as much itself or not."""
    assume(strides == 1 or dilation == 1)  # Keras
    assume(mode == "same" or side + sum(padding) > (kernel - 1) * dilation)
    image = keras.Input((side, side, 2))
    padded = keras.layers.ZeroPadding2D((padding, padding))(image)
    y = keras.layers.DepthwiseConv2D(kernel, strides, mode, dilation_rate=dilation)(padded)
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 1, padding="same")(y))
    if read_again:
        y = keras.layers.Concatenate()([y, keras.layers.GlobalAveragePooling2D()(padded)])
    whole = keras.Model(image, y)
    images = np.random.default_rng(1).normal(size=(2, side, side, 2)).astype(np.float32)
    np.testing.assert_array_equal(rewritten(whole)(images), whole(images))


@pytest.mark.parametrize("size", [97, 112])
@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0"])
def test_convolutions_pad_themselves(name: str, size: int) -> None:
    whole = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )
    image = np.random.default_rng(1).uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
    ours = rewritten(whole)
    assert not any(isinstance(layer, keras.layers.ZeroPadding2D) for layer in ours.layers)
    np.testing.assert_array_equal(ours(image), whole(image))


def test_a_constant_added_or_multiplied_changes_no_bit() -> None:
    whole = net(lambda x, _: keras.layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0))
    np.testing.assert_array_equal(rewritten(whole)(IMAGES), whole(IMAGES))


def test_what_is_built_in_is_kept_and_what_nobody_knows_is_named() -> None:
    whole = net(lambda x, y: keras.layers.Add()([x, y]))
    assert rewritten(whole) is whole
    with pytest.raises(PipelineError, match=r"net: \w+ \(Subtract\) is not a built-in layer"):
        rewritten(net(lambda x, y: x - y))
