"""Pretrained nets: Keras's own, with weights from a file or a line that says what is wrong."""

from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from stages.errors import PipelineError
from stages.nets import pretrained

BOTH_FORMATS = pytest.mark.parametrize("name", ["a.weights.h5", "a.h5"])


def small_net() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    return keras.Model(image, keras.layers.BatchNormalization(name="bn")(x))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application of a few weights, so that what a test shows is the reading of the file."""
    monkeypatch.setattr(keras.applications, "MobileNet", lambda **_: small_net())


def save(path: Path, net: keras.Model) -> None:
    """Save in the format that the name tells: as Keras saves, or as it publishes."""
    if path.name.endswith(".weights.h5"):
        net.save_weights(path)
        return
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, net)


def refusal(path: Path) -> str:
    """Return the one line with which a file is refused as MobileNet's."""
    with pytest.raises(PipelineError) as error:
        pretrained.build("MobileNet", 32, path)
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said


@pytest.mark.usefixtures("small")
@BOTH_FORMATS
def test_what_keras_saves_is_read(tmp_path: Path, name: str) -> None:
    net = small_net()
    net.set_weights([np.random.default_rng(1).random(w.shape) for w in net.get_weights()])
    save(tmp_path / name, net)
    found = pretrained.build("MobileNet", 32, tmp_path / name).get_weights()
    for a, b in zip(net.get_weights(), found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("small")
@BOTH_FORMATS
@pytest.mark.parametrize(
    "change",
    [
        lambda kernel: kernel[..., :3],
        lambda kernel: kernel.ravel(),
        lambda kernel: np.zeros(kernel.shape, "S5"),
    ],
)
def test_another_shape_or_type_is_refused(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    save(tmp_path / name, small_net())
    kernel = {"a.weights.h5": "layers/conv2d/vars/0", "a.h5": "conv/conv/kernel"}[name]
    with h5py.File(tmp_path / name, "r+") as file:
        changed = change(file[kernel][()])
        del file[kernel]
        file[kernel] = changed
    said = refusal(tmp_path / name)
    assert "expected the weights of MobileNet without its top, got: " in said
    assert "conv" in said.removeprefix(str(tmp_path))  # the layer at fault
    assert "set backbone.name to the application that the file belongs to" in said


@pytest.mark.usefixtures("small")
@BOTH_FORMATS
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, name: str, bad: float) -> None:
    net = small_net()
    net.get_layer("bn").gamma.assign([1, 1, bad, 1])
    save(tmp_path / name, net)
    assert "bn/gamma holds NaN or infinity" in refusal(tmp_path / name)


@pytest.mark.usefixtures("small")
@BOTH_FORMATS
def test_what_is_no_weights_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(FileNotFoundError) as error:
        pretrained.build("MobileNet", 32, path)
    assert error.value.filename == str(path)
    save(path, small_net())
    whole = path.read_bytes()
    for content in (b"", b"<html>sign in</html>", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "expected the weights of MobileNet" in refusal(path)


@pytest.mark.parametrize("name", ["a.keras", "a.weights.json", "a"])
def test_other_formats_that_keras_would_open_are_refused(tmp_path: Path, name: str) -> None:
    assert "expected a name that ends in .weights.h5 or .h5" in refusal(tmp_path / name)


def test_a_file_serves_its_net_at_any_size_and_no_other_net(tmp_path: Path) -> None:
    path = tmp_path / "mobilenet_v2.weights.h5"
    first = pretrained.build("MobileNetV2", 32)
    first.save_weights(path)
    second = pretrained.build("MobileNetV2", 64, path)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "expected the weights of MobileNet without its top" in refusal(path)


def test_the_file_is_the_one_that_keras_would_download() -> None:
    small, large = (pretrained.official_weights("MobileNetV2", size) for size in (96, 224))
    assert small.hash is large.hash is None
    assert small.name.endswith("_1.0_96_no_top.h5")
    assert large.url.endswith("_1.0_224_no_top.h5")
    assert pretrained.official_weights("VGG16", 32).hash == "6d6bbae143d832006294945121d1f1fc"


def test_only_for_its_weights_does_keras_scale_for_efficientnet() -> None:
    """With `weights=None` the last of these three is missing."""
    first = [layer.name for layer in pretrained.build("EfficientNetB0", 32).layers[1:4]]
    assert first == ["rescaling", "normalization", "rescaling_1"]


def test_names_do_not_depend_on_what_was_built_before() -> None:
    first = pretrained.build("MobileNetV3Small", 32)
    keras.layers.Conv2D(1, 1)(keras.Input((8, 8, 3))) + 1.0
    second = pretrained.build("MobileNetV3Small", 32)
    assert [op.name for op in first.operations] == [op.name for op in second.operations]
    assert [w.path for w in first.weights] == [w.path for w in second.weights]
