"""predict.py: what a model is given for a photo of any kind, and what is printed of its answer."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

import predict
from stages.paths import DATASET
from tests.conftest import PROJECT, Project, one_line

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def half_green(mode: str = "RGB") -> Image.Image:
    """Draw a square whose upper half is red and whose lower half is green."""
    image = Image.new("RGB", (64, 64), RED)
    image.paste(GREEN, (0, 32, 64, 64))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "CMYK"])
def test_colours_are_kept_in_every_mode(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    half_green(mode).save(path)
    x = predict.read(path)
    assert x.shape == (32, 32, 3)
    assert x.dtype == np.uint8
    assert (x[:12] == RED).all()
    assert (x[20:] == GREEN).all()


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    on_its_side = half_green().transpose(Image.Transpose.ROTATE_90)
    on_its_side.save(tmp_path / "photo.png", exif=exif)
    assert (predict.read(tmp_path / "photo.png")[:12] == RED).all()


@pytest.mark.parametrize(
    ("pixel", "seen"),
    [
        (np.uint8(80), (80, 80, 80)),
        (np.bool_(True), WHITE),
        (np.uint16(80 * 257), (80, 80, 80)),  # 16 bits, of 0 to 65535
        (np.array([80, 0], np.uint8), WHITE),  # grey, transparent
        (np.array([*RED, 0], np.uint8), WHITE),
        (np.array([*RED, 128], np.uint8), (255, 127, 127)),
    ],
)
def test_grey_depth_and_transparency(pixel: np.ndarray, seen: tuple, tmp_path: Path) -> None:
    Image.fromarray(np.tile(pixel, (40, 40, *np.ones(pixel.ndim, int)))).save(tmp_path / "a.png")
    assert (predict.read(tmp_path / "a.png") == seen).all()


def test_a_cifar10_image_stays_as_it_is(tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(x).save(tmp_path / "a.png")
    np.testing.assert_array_equal(predict.read(tmp_path / "a.png"), x)


@given(width=st.integers(1, 90), height=st.integers(1, 90))
def test_the_square_in_the_centre_is_cut_out(
    width: int, height: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Red, if only what is to both sides of it is green; the filter mixes the two at the edge."""
    path = tmp_path_factory.getbasetemp() / "size.png"
    image = Image.new("RGB", (width, height), GREEN)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    image.paste(RED, (left, top, width - left, height - top))
    image.save(path)
    x = predict.read(path)
    assert x.shape == (32, 32, 3)
    assert side < 32 or (x[5:-5, 5:-5] == RED).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with predict.py, a folder of photos, and a model: red is a bird, green is a cat."""
    pixels = keras.Input((32, 32, 3))
    head = keras.layers.Dense(10, "softmax")
    model = keras.Model(pixels, head(keras.layers.GlobalAveragePooling2D()(pixels)))
    head.set_weights([np.eye(3, 10, 2) / 50, np.zeros(10)])
    model.compile("sgd", "categorical_crossentropy")
    model.save(tmp_path / "cifar10.h5")
    shutil.copy(PROJECT / "predict.py", tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (40, 50), RED).save(photos / "1.JPG", "jpeg")
    (photos / "2.png").write_bytes((photos / "1.JPG").read_bytes()[:400])
    Image.new("RGB", (40, 50), GREEN).save(photos / "3.webp")
    (photos / "notes.txt").touch()
    for name in ("cifar10.h5", "scan.pdf"):  # formats that Pillow names, and cannot read
        (photos / name).touch()
    return photos


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(folder.parent / "predict.py")
    return Project(folder, folder).run(sys.executable, script, *arguments, PYTHONPATH=str(PROJECT))


def test_what_can_be_read_is_classified(folder: Path) -> None:
    """Here without a path, from another folder than the model's."""
    done = run(folder, ".", "missing.png")
    first, second, note = done.stdout.splitlines()
    assert re.match(r"1\.JPG +bird +0\.9\d\d +", first)
    assert re.match(r"3\.webp +cat +0\.9\d\d +", second)
    assert note.startswith("Photos are not CIFAR-10")
    assert done.returncode == 1
    damaged, missing = (line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert damaged.startswith("error: 2.png: ")
    assert missing.startswith("error: missing.png: ")
    assert "Traceback" not in done.stderr


def test_json(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "1.JPG")
    monkeypatch.setattr(predict, "MODEL", folder.parent / "cifar10.h5")
    monkeypatch.setattr(sys, "argv", ["predict.py", "--json", path])
    assert predict.main() == 0
    probabilities = json.loads(capsys.readouterr().out)[path]
    assert next(iter(probabilities)) == "bird"
    assert set(probabilities) == set(predict.CLASS_NAMES)
    assert sum(probabilities.values()) == pytest.approx(1)


def test_nothing_to_do_is_one_line(folder: Path) -> None:
    assert "error: no image; expected" in one_line(run(folder))
    model = folder.parent / "cifar10.h5"
    model.write_bytes(b"")
    assert f"{model}: damaged" in one_line(run(folder, "1.JPG"))
    model.unlink()
    assert f"{model} is missing; `make reproduce` makes it" in one_line(run(folder, "1.JPG"))


@pytest.mark.real
def test_the_names_are_those_of_the_archive() -> None:
    with np.load(PROJECT / DATASET) as arrays:
        assert tuple(arrays["class_names"]) == predict.CLASS_NAMES
