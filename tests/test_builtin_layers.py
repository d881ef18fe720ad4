"""Built-in layers in the place of parts that Keras saves and cannot load: equal, and loaded."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
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
    "a product": lambda x, y: x * y,
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


def test_a_constant_added_or_multiplied_changes_no_bit() -> None:
    whole = net(lambda x, _: keras.layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0))
    np.testing.assert_array_equal(rewritten(whole)(IMAGES), whole(IMAGES))


def test_what_is_built_in_is_kept_and_what_nobody_knows_is_named() -> None:
    whole = net(lambda x, y: keras.layers.Add()([x, y]))
    assert rewritten(whole) is whole
    with pytest.raises(PipelineError, match=r"net: \w+ \(Subtract\) is not a built-in layer"):
        rewritten(net(lambda x, y: x - y))
