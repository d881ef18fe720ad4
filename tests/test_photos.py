"""Photos: what a net is given for a file of any kind, which are refused, what a folder yields."""

import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from stages.data import photos
from stages.errors import PipelineError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)
SIZE = (32, 32)


def half_green(mode: str = "RGB") -> Image.Image:
    """Draw a square whose upper half is red and whose lower half is green."""
    image = Image.new("RGB", (64, 64), RED)
    image.paste(GREEN, (0, 32, 64, 64))
    return image.convert(mode)


def refusal(path: Path) -> str:
    """Return the one line that refuses a file, without its path."""
    with pytest.raises(PipelineError) as caught:
        photos.read(path, SIZE, "crop")
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith(f"{photos.printable(path)}: ")
    return line.removeprefix(f"{photos.printable(path)}: ")


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "CMYK"])
def test_colors_are_kept_in_every_mode(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    half_green(mode).save(path)
    x = photos.read(path, SIZE, "crop")
    assert x.shape == (32, 32, 3)
    assert x.dtype == np.uint8
    assert (x[:12] == RED).all()
    assert (x[20:] == GREEN).all()


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    on_its_side = half_green().transpose(Image.Transpose.ROTATE_90)
    on_its_side.save(tmp_path / "photo.png", exif=exif)
    assert (photos.read(tmp_path / "photo.png", SIZE, "crop")[:12] == RED).all()
    # With a resolution unit that is a text, which Pillow can read and not write.
    entries = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x128, 2, 2, b"x")
    odd = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    on_its_side.save(tmp_path / "photo.jpg", exif=odd, quality=100, subsampling=0)
    top = photos.read(tmp_path / "photo.jpg", SIZE, "crop")[:12]
    np.testing.assert_allclose(top, np.broadcast_to(RED, top.shape), atol=4)


@pytest.mark.parametrize(
    ("pixel", "seen"),
    [
        (np.uint8(80), (80, 80, 80)),
        (np.bool_(True), WHITE),
        (np.array([80, 0], np.uint8), WHITE),  # gray, transparent
        (np.array([*RED, 0], np.uint8), WHITE),
        (np.array([*RED, 128], np.uint8), (255, 127, 127)),
        (np.array([*RED, 255], np.uint8), RED),
    ],
)
def test_gray_and_transparency(pixel: np.ndarray, seen: tuple, tmp_path: Path) -> None:
    Image.fromarray(np.tile(pixel, (40, 40, *np.ones(pixel.ndim, int)))).save(tmp_path / "a.png")
    assert (photos.read(tmp_path / "a.png", SIZE, "crop") == seen).all()


def test_a_transparent_gray_of_16_bits_is_white(tmp_path: Path) -> None:
    gray = Image.fromarray(np.full((40, 40), 1000, np.uint16))
    gray.save(tmp_path / "a.png", transparency=1000)
    assert (photos.read(tmp_path / "a.png", SIZE, "crop") == WHITE).all()


def test_an_image_of_the_size_stays_as_it_is(tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(x).save(tmp_path / "a.png")
    np.testing.assert_array_equal(photos.read(tmp_path / "a.png", (24, 40), "crop"), x)


@given(width=st.integers(1, 90), height=st.integers(1, 90))
def test_the_square_in_the_center_is_cut_out(
    width: int, height: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Red, if only what is to both sides of it is green; the filter mixes the two at the edge."""
    path = tmp_path_factory.getbasetemp() / "size.png"
    image = Image.new("RGB", (width, height), GREEN)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    image.paste(RED, (left, top, width - left, height - top))
    image.save(path)
    x = photos.read(path, SIZE, "crop")
    assert x.shape == (32, 32, 3)
    assert side < 32 or (x[5:-5, 5:-5] == RED).all()


@given(width=st.integers(2, 90), height=st.integers(2, 90))
def test_or_all_of_it_is_padded_with_gray(
    width: int, height: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "padded.png"
    Image.new("RGB", (width, height), RED).save(path)
    x = photos.read(path, SIZE, "pad")
    assert x.shape == (32, 32, 3)
    red, gray = ((x == color).all(axis=2) for color in (RED, photos.BORDER))
    assert (red | gray).all()
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    side = max(width, height)
    for found, length in ((rows, height), (columns, width)):
        assert len(found) == pytest.approx(32 * length / side, abs=0.5)
        assert found[0] + found[-1] == pytest.approx(31, abs=1)  # in the center


def test_a_large_jpeg_is_read_as_if_all_of_it_was_decoded(tmp_path: Path) -> None:
    coarse = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    image = Image.fromarray(coarse).resize((2003, 1501), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png", exif=exif)
    jpeg, png = (
        photos.read(tmp_path / f"a.{suffix}", (24, 40), "crop") for suffix in ("jpg", "png")
    )
    np.testing.assert_allclose(jpeg, png.astype(int), atol=4)


# --- depth


def tiff(bits: int, samples: int = 1) -> bytes:
    tags = {256: 4, 257: 4, 258: bits, 259: 1, 262: 1, 273: 122, 277: samples, 278: 4, 279: 24}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + b"\xff" * 24


@given(value=st.integers(0, 255), suffix=st.sampled_from(["png", "tif", "jp2", "pgm"]))
def test_16_bits_are_divided_by_257(
    value: int, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"depth.{suffix}"
    Image.fromarray(np.full((40, 40), value * 257, np.uint16)).save(path)
    assert (photos.read(path, SIZE, "crop") == value).all()


@given(value=st.integers(0, 255))
def test_floats_up_to_1_are_multiplied_by_255(
    value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "float.tif"
    Image.fromarray(np.full((40, 40), value / 255, np.float32)).save(path)
    assert (photos.read(path, SIZE, "crop") == value).all()


@pytest.mark.parametrize(
    ("pixel", "got"),
    [
        (np.int32(70000), "int32 from 0 to 70000"),
        (np.float32(80), "float32 from 0.0 to 80.0"),
        (np.float32(-0.5), "float32 from -0.5 to 0.0"),
        (np.float32("nan"), "float32 from nan to nan"),
        (np.float32("inf"), "float32 from 0.0 to inf"),
    ],
)
def test_any_other_depth_is_refused(pixel: np.generic, got: str, tmp_path: Path) -> None:
    """In one corner, which is not even cut out."""
    x = np.zeros((40, 90), pixel.dtype)
    x[0, 0] = pixel
    Image.fromarray(x).save(tmp_path / "a.tif")
    assert refusal(tmp_path / "a.tif").startswith(f"{got}, neither 8 or 16 bits nor floats")


def test_12_bits_are_refused_and_not_black(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(bits=12))
    assert "from 4095 to 4095" in refusal(tmp_path / "a.tif")


# --- what is no image


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that has hardly any of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_a_decompression_bomb_is_refused_with_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of(60_000, 60_000))
    assert refusal(tmp_path / "a.png") == "3600000000 pixels; expected at most 178956970"


def test_the_content_of_a_file_is_refused_without_a_path() -> None:
    with pytest.raises(PipelineError, match=r"^in no format that Pillow reads; expected an image$"):
        photos.decode(io.BytesIO(b"no image"), SIZE, "crop")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # opened, it would block
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for path in (tmp_path, tmp_path / "pipe.jpg", Path("/dev/zero")):
        assert refusal(path) == "a folder, pipe or device; expected an image"
    assert refusal(tmp_path / "a.jpg") == "No such file or directory; expected an image"
    assert refusal(tmp_path / "loop.jpg").endswith("symbolic links; expected an image")


@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "text"]),
    place=st.floats(0, 1),
    content=st.binary(max_size=40),
    cut=st.booleans(),
)
def test_damage_is_one_line_or_none(
    kind: str, place: float, content: bytes, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged\n\x1b[31m.jpg"
    whole = io.BytesIO()
    if kind != "text":
        half_green().save(whole, kind)
    start = int(place * len(whole.getvalue()))
    rest = b"" if cut else whole.getvalue()[start + len(content) :]
    path.write_bytes(whole.getvalue()[:start] + content + rest)
    try:
        assert photos.read(path, SIZE, "crop").shape == (32, 32, 3)
    except PipelineError:
        assert "expected" in refusal(path)


# --- HEIC

HEICS = [b"heic" + bytes(4) + b"mif1heic", b"heix" + bytes(4) + b"mif1", b"mif1\0\0\0\0mif1heic"]


@pytest.mark.parametrize("brands", HEICS)
def test_heic_names_the_package_that_it_needs(
    brands: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    header = struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands
    (tmp_path / "photo").write_bytes(header + bytes(40))
    assert f"`{sys.executable} -m pip install pillow-heif`" in refusal(tmp_path / "photo")


def test_heic_is_read(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(half_green()).save(tmp_path / "photo.heic", quality=100)
    (tmp_path / "photo.heic").rename(tmp_path / "photo.jpg")
    x = photos.read(tmp_path / "photo.jpg", SIZE, "crop").astype(int)
    np.testing.assert_allclose(x[:12], np.broadcast_to(RED, (12, 32, 3)), atol=9)
    np.testing.assert_allclose(x[20:], np.broadcast_to(GREEN, (12, 32, 3)), atol=9)


# --- folders

NAMES = st.sampled_from(["a", "B", "b.jpg", "Z", "é", "new\nline", "\udcff", "a.HEIC", "notes.txt"])
IGNORED = [".a", "._b.jpg", ".DS_Store", "Thumbs.db", "thumbs.DB", "desktop.ini", "__MACOSX"]


PATHS = st.lists(NAMES | st.sampled_from(IGNORED), min_size=1, max_size=4).map(tuple)


@given(paths=st.sets(PATHS))
def test_a_folder_yields_all_but_litter_sorted(
    paths: set[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    made = []
    for parts in sorted(paths):
        path = folder.joinpath(*parts)
        if not path.exists() and not any(parent in made for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            made.append(path)
    kept = [path for path in made if not set(path.parts) & set(IGNORED)]
    assert list(photos.walk(folder)) == sorted(kept)


def test_links_are_not_followed_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/up").symlink_to("..")
    (tmp_path / "top").symlink_to("in")
    assert list(photos.walk(tmp_path)) == [tmp_path / "in/up", tmp_path / "top"]
    assert list(photos.walk(tmp_path / "top")) == [tmp_path / "top/up"]


def test_a_folder_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not passed over, as by os.walk. Root, who may run this, reads every folder."""
    (tmp_path / "private").mkdir()
    listed = Path.iterdir

    def iterdir(path: Path) -> list[Path]:
        if path.name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return list(listed(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(PipelineError, match="private: Permission denied; make it readable"):
        list(photos.walk(tmp_path))


@given(st.text(st.characters()))
def test_a_printed_path_cannot_steer_a_terminal(text: str) -> None:
    shown = photos.printable(text)
    assert shown.isprintable()
    assert not text.isprintable() or shown == text
