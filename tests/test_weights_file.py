"""Weights files from elsewhere that are damaged, or made to do harm."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from keras.src.legacy.saving import legacy_h5_format

from stages.transfer import backbones, weights_file
from stages.transfer.errors import PipelineError
from tests.conftest import PROJECT
from tests.test_hostile_archive import EDITS, Edits, edited

Make = Callable[[h5py.File, Path], None]


def small_net() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="bn"),
        ]
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application of a few weights, so that what a test shows is the reading of the file."""
    monkeypatch.setattr(keras.applications, "MobileNet", lambda **_: small_net())


def save(path: Path, net: keras.Model | None = None) -> None:
    """Save in the format that the name tells, as Keras saves or as it publishes."""
    net = net or small_net()
    if path.name.endswith(".weights.h5"):
        net.save_weights(path)
        return
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, net)


def read(path: Path) -> keras.Model:
    """Do with a file what the stage does."""
    weights_file.check(path)
    return backbones.original("MobileNet", 32, path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5"])
def test_what_keras_saves_is_read(tmp_path: Path, name: str) -> None:
    net = small_net()
    net.set_weights([weight + 1 for weight in net.get_weights()])
    save(tmp_path / name, net)
    for a, b in zip(net.get_weights(), read(tmp_path / name).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def external_link(file: h5py.File, path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))  # whoever opens it waits without end
    file["conv"] = h5py.ExternalLink(str(path.with_name("pipe")), "/")


def external_data(file: h5py.File, path: Path) -> None:
    path.with_name("secret").write_bytes(bytes(800))
    file.create_dataset("w", (100,), "f8", external=[(str(path.with_name("secret")), 0, 800)])


def virtual_data(file: h5py.File, path: Path) -> None:
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["w"] = np.ones(3)
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), "w", (3,))
    file.create_virtual_dataset("w", layout)


def a_hole(file: h5py.File, _: Path) -> None:
    file.create_dataset("w", (2**28,), "f4", chunks=(2**20,), compression="gzip")


def one_of_many_names(file: h5py.File, _: Path) -> None:
    group = file.create_group("conv")
    group["w"] = np.ones(2**16)
    group.attrs["weight_names"] = np.array([b"w"] * 4000)


def texts(file: h5py.File, _: Path) -> None:
    """Each could be the long one: HDF5 lets many refer to the same."""
    file.attrs["keras_version"] = ["3" * 2**19, *["3"] * 1000]


def names(file: h5py.File, _: Path) -> None:
    file.create_group("vars").attrs["layer_names"] = np.zeros(weights_file.NAMES_LIMIT + 1, "i1")


def itself(file: h5py.File, _: Path) -> None:
    file.create_group("conv")["conv"] = file["/"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (external_link, "'/conv' is a link to elsewhere"),
        (lambda f, _: f.update({"a": h5py.SoftLink("/b")}), "'/a' is a link to elsewhere"),
        (external_data, "'/w' is in another file"),
        (virtual_data, "'/w' is in another file"),
        (a_hole, r"'/w', of shape \(268435456,\), declares more than the file holds"),
        (lambda f, _: f.update({"g": f["/"]}), "'/g' is there under two names"),
        (itself, "'/conv/conv' is there under two names"),
        (one_of_many_names, "'/conv' names a layer or a weight twice"),
        (texts, "'/' names a layer or a weight twice, or too many"),
        (names, "too many"),
        (
            lambda f, _: f.create_dataset("w", data=["text"], dtype=h5py.string_dtype()),
            "'/w' is no array of numbers",
        ),
        (
            lambda f, _: f.create_dataset("w", (2,), h5py.ref_dtype),
            "'/w' is no array of numbers",
        ),
        (lambda f, _: f.update({"t": np.dtype("f4")}), "'/t' is no array of numbers"),
        (lambda f, _: f.update({"w": np.ones(2, "c8")}), "'/w' is no array of numbers"),
        (lambda f, _: f.update({"w": np.ones(2, "?")}), "'/w' is no array of numbers"),
    ],
)
def test_files_that_reach_out_or_hold_too_much_are_named(
    tmp_path: Path, make: Make, said: str
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", track_order=True) as file:
        make(file, path)
    with pytest.raises(PipelineError, match=said) as error:
        weights_file.check(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"\0", b"<html>sign in</html>", b"\x89HDF\r\n\x1a\n"])
def test_what_is_no_hdf5_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.weights.h5"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=r"a\.weights\.h5: expected HDF5"):
        weights_file.check(path)


@pytest.mark.parametrize("name", ["a.keras", "a.weights.json", "a.zip", "a"])
def test_other_formats_that_keras_would_open_are_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a.weights.h5")
    (tmp_path / "a.weights.h5").rename(tmp_path / name)
    with pytest.raises(PipelineError, match=r"ends in \.weights\.h5 or \.h5"):
        weights_file.check(tmp_path / name)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, name: str, bad: float) -> None:
    net = small_net()
    values = net.get_weights()
    values[2][1] = bad
    net.set_weights(values)
    save(tmp_path / name, net)
    with pytest.raises(PipelineError, match=r"a.*h5: .*bn/gamma holds NaN or infinity"):
        read(tmp_path / name)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5"])
def test_a_double_that_is_no_single_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path / name)
    change(tmp_path / name, "bias", lambda _: np.full(4, 1e300))
    with (
        warnings.catch_warnings(action="error", category=RuntimeWarning),
        pytest.raises(PipelineError, match="conv/bias holds NaN or infinity"),
    ):
        read(tmp_path / name)


def change(path: Path, name: str, new: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the array at the first path that ends in a name."""
    with h5py.File(path, "r+") as file:
        found: list[str] = []
        file.visititems(
            lambda where, item: found.append(where) if isinstance(item, h5py.Dataset) else None
        )
        number = {"kernel": "0", "bias": "1"}[name]
        place = next(where for where in found if where.endswith((name, f"conv2d/vars/{number}")))
        value = new(file[place][()])
        del file[place]
        file[place] = value


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5"])
@pytest.mark.parametrize(
    "new",
    [
        lambda kernel: kernel[..., :3],
        lambda kernel: kernel.ravel(),
        lambda kernel: np.array(1.0),
        lambda kernel: np.zeros((3, 3, 3, 4), "S5"),
        lambda kernel: np.zeros((3, 3, 3, 4), [("a", "f4"), ("b", "i4")]),
        lambda kernel: np.zeros((3, 3, 3, 4), "V2"),
        lambda kernel: np.zeros((0, 3, 3, 4)),
    ],
)
def test_another_shape_or_type_is_named(
    tmp_path: Path, name: str, new: Callable[[np.ndarray], np.ndarray]
) -> None:
    save(tmp_path / name)
    change(tmp_path / name, "kernel", new)
    with pytest.raises(
        PipelineError, match=r"expected (the weights of MobileN|weights as K)"
    ) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def try_altered(count: int, folder: Path, name: str) -> None:
    """Read altered copies of a file: what is read holds numbers only, the rest is refused."""
    save(folder / f"whole.{name}")
    original = (folder / f"whole.{name}").read_bytes()

    @settings(max_examples=count)
    @given(edits=EDITS)
    def check(edits: Edits) -> None:
        (folder / name).write_bytes(edited(original, edits, 1000))
        try:
            values = read(folder / name).get_weights()
        except PipelineError as error:
            values, said = [], str(error)
        else:
            said = "read"
        assert said.isprintable()
        assert len(said) < 700
        assert all(np.isfinite(value).all() for value in values)

    check()


def altered_apart(count: int, folder: Path, name: str) -> None:
    """Do so in a process of its own: HDF5 is written in C, where damage can crash it."""
    script = (
        "import faulthandler, keras, pathlib, sys; faulthandler.enable();"
        "from tests import test_weights_file as t;"
        "keras.applications.MobileNet = lambda **_: t.small_net();"
        f"t.try_altered({count}, pathlib.Path(sys.argv[1]), {name!r})"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5"])
def test_altered_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    try_altered(100, tmp_path, name)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5"])
def test_altered_files_by_the_thousand_crash_nothing(tmp_path: Path, name: str) -> None:
    altered_apart(1_500, tmp_path, name)


def test_many_short_texts_in_a_large_file_are_fine(tmp_path: Path) -> None:
    """As in the files that Keras publishes."""
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["w"] = np.ones(2**18)
        file.attrs["layer_names"] = [f"layer{number}" for number in range(1000)]
    weights_file.check(tmp_path / "w.h5")
