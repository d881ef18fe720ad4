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

FORMATS = {"a.weights.h5": "layers/conv2d/vars/0", "a.h5": "conv/conv/kernel"}  # name: its kernel


def small_net() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    return keras.Model(image, keras.layers.BatchNormalization(name="bn")(x))


@pytest.fixture(params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights as Keras saves or publishes them, of an application that is a few layers here."""
    monkeypatch.setattr(keras.applications, "MobileNet", lambda **_: small_net())
    path = tmp_path / request.param
    if path.name.endswith(".weights.h5"):
        small_net().save_weights(path)
        return path
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, small_net())
    return path


def refusal(path: Path) -> str:
    """Return the one line with which a file is refused as MobileNet's."""
    with pytest.raises(PipelineError) as error:
        pretrained.build("MobileNet", 32, path)
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said


def change_kernel(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    name = FORMATS[path.name]
    with h5py.File(path, "r+") as file:
        changed = change(file[name][()])
        del file[name]
        file[name] = changed


def test_what_keras_saves_is_read(path: Path) -> None:
    change_kernel(path, lambda kernel: np.full_like(kernel, 0.25))
    assert (pretrained.build("MobileNet", 32, path).get_weights()[0] == 0.25).all()


@pytest.mark.parametrize(
    "change",
    [lambda kernel: kernel[..., :3], np.ravel, lambda kernel: np.zeros(kernel.shape, "S5")],
)
def test_another_shape_or_type_is_refused(
    path: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    change_kernel(path, change)
    said = refusal(path).removeprefix(str(path))
    assert "expected the weights of MobileNet without its top, got: " in said
    assert "conv" in said  # the layer at fault
    assert "set backbone.name to the application that the file belongs to" in said


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e300])
def test_weights_that_are_no_numbers_are_named(path: Path, bad: float) -> None:
    change_kernel(path, lambda kernel: np.full(kernel.shape, bad))
    assert "conv/kernel holds NaN or infinity" in refusal(path)


def test_what_is_no_weights_file_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for content in (b"", b"<html>sign in</html>", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "expected the weights of MobileNet" in refusal(path)
    other = path.rename(path.with_name("a.keras"))
    assert "expected a name that ends in .weights.h5 or .h5" in refusal(other)
    with pytest.raises(FileNotFoundError) as error:
        pretrained.build("MobileNet", 32, path)
    assert error.value.filename == str(path)


def test_a_file_serves_its_net_at_any_size_and_no_other_net(tmp_path: Path) -> None:
    path = tmp_path / "v3.weights.h5"
    first = pretrained.build("MobileNetV3Small", 32)
    first.save_weights(path)
    second = pretrained.build("MobileNetV3Small", 64, path)
    # Names do not depend on what was built before.
    assert [op.name for op in first.operations] == [op.name for op in second.operations]
    for a, b in zip(first.weights, second.weights, strict=True):
        assert a.path == b.path
        np.testing.assert_array_equal(a, b)
    assert "expected the weights of MobileNet without its top" in refusal(path)


def test_the_file_is_the_one_that_keras_would_download() -> None:
    """If this fails, Keras has moved the private function that `pretrained.GET_FILE` names."""
    official = pretrained.official_weights("MobileNetV2")
    assert official.hash is None
    assert official.url.endswith("_1.0_224_no_top.h5")
    assert pretrained.official_weights("VGG16").hash == "6d6bbae143d832006294945121d1f1fc"


@pytest.mark.parametrize("name", ["VGG16", "ResNet50"])
def test_a_net_that_expects_bgr_takes_rgb(name: str) -> None:
    keras.utils.set_random_seed(1)
    theirs = pretrained.original(name, 32)
    keras.utils.set_random_seed(1)
    ours = pretrained.build(name, 32)
    x = np.random.default_rng(1).normal(0, 50, (2, 32, 32, 3)).astype(np.float32)
    expected = theirs(x[..., ::-1]).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3 * abs(expected).max() > 0
    np.testing.assert_allclose(ours(x), expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
