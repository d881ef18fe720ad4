"""Photos of one's own: layouts, archives, awkward files, what is left out and why."""

import contextlib
import csv
import gzip
import io
import json
import os
import re
import shutil
import struct
import sys
import tarfile
import time
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import loky
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from stages import preprocess
from stages.data import folders
from stages.errors import PipelineError
from stages.paths import ABOUT, ARCHIVE, IMAGES, LABELS, PHOTOS, SKIPPED
from tests import drawn
from tests.conftest import ALL
from tests.test_photos import png_of, tiff

OWN = PHOTOS / "own"
SIDE = 8
FF = os.fsdecode(b"\xff")  # no UTF-8


class Stored(NamedTuple):
    """What preprocess has written: class, part and pixels by the name of a file."""

    labels: dict[str, str]
    parts: dict[str, str]
    pixels: dict[str, np.ndarray]
    skipped: dict[str, str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PHOTOS.mkdir(parents=True)


def preprocessed(name: str = "own", side: int = SIDE, aspect: str = "crop") -> Stored:
    """Run the stage in the current folder; return its output."""
    data = ALL.data.model_copy(update={"name": name, "image_size": side, "aspect": aspect})
    preprocess.main(ALL.model_copy(update={"data": data}))
    images = np.load(IMAGES)
    with np.load(LABELS) as file:
        of = dict(file)
    part_of = {row: part for part in ("train", "dev", "test") for row in of[part]}
    files = json.loads(ABOUT.read_text())["files"]
    names = {row: files[row] for row in part_of}
    with SKIPPED.open(newline="", errors="surrogateescape") as table:
        header, *skipped = csv.reader(table)
    assert header == ["file", "reason"]
    assert len(dict(skipped)) == len(skipped)
    return Stored(
        {name: str(of["class_names"][of["labels"][row]]) for row, name in names.items()},
        {name: part_of[row] for row, name in names.items()},
        {name: images[row] for row, name in names.items()},
        dict(skipped),
    )


def refusal() -> str:
    """Return the line that refuses data/images/own."""
    with pytest.raises(PipelineError) as caught:
        preprocessed()
    assert str(caught.value).isprintable()
    assert str(OWN) in str(caught.value)
    return str(caught.value)


def written() -> list[bytes]:
    """Run the stage; return the bytes of all that it writes."""
    preprocessed()
    return [path.read_bytes() for path in (ABOUT, IMAGES, LABELS, SKIPPED)]


def some(*folders: str, count: int = 4) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(count)]


def noise(name: str) -> np.ndarray:
    """Return the pixels of the image of this name, and of no other."""
    rng = np.random.default_rng(list(os.fsencode(name)))
    return rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def make(*names: str) -> None:
    """Make an image for each name, a folder for one with a slash at the end."""
    for path in (OWN / name for name in names if name.endswith("/")):
        path.mkdir(parents=True)
    for name in (name for name in names if not name.endswith("/")):
        (OWN / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(name)).save(OWN / name, "png")


def listing(top: Path) -> dict[Path, Any]:
    """Return names, times and contents of all files and folders below one."""
    return {
        path: (
            path.lstat().st_mtime_ns,
            path.is_file() and os.access(path, os.R_OK) and path.read_bytes(),
        )
        for path in (top, *top.rglob("*"))
    }


# --- layouts


@pytest.mark.parametrize(
    "class_of",
    [
        {"a": "a", "b": "b"},
        {"w/v/a": "a", "w/v/b": "b"},
        {"train/a": "a", "train/b": "b"},
        {"a": "a", "a/deep/er": "a", "b": "b"},
        {"test": "test", "bus": "bus"},
        {"e\u0301": "\u00e9", "\u00e9": "\u00e9", "z": "z"},  # decomposed as by macOS, composed
        {" \n\t": r" \n\t", "--$%'": "--$%'", FF: r"\udcff"},  # escaped: they are printed
    ],
)
def test_a_class_is_a_folder_with_all_that_is_nested_in_it(class_of: dict[str, str]) -> None:
    make(*some(*class_of))
    stored = preprocessed()
    expected = {name: label for each, label in class_of.items() for name in some(each)}
    assert stored.labels == expected
    assert set(stored.parts.values()) == {"train", "dev", "test"}
    assert stored.skipped == {}
    for name, pixels in stored.pixels.items():
        np.testing.assert_array_equal(pixels, noise(name))


@pytest.mark.parametrize("wrapping", ["", "w/", "w/v/"])
@pytest.mark.parametrize("dev", ["VAL", "valid", "Validation", "dev"])
@pytest.mark.parametrize(("train", "test"), [("train", "TEST"), ("Training", "testing")])
def test_parts_are_used_as_given(train: str, dev: str, test: str, wrapping: str) -> None:
    parts = {wrapping + train: "train", wrapping + dev: "dev", wrapping + test: "test"}
    expected = {name: part for top, part in parts.items() for name in some(f"{top}/a", f"{top}/b")}
    make(*expected)
    stored = preprocessed()
    assert stored.parts == expected
    assert set(stored.labels.values()) == {"a", "b"}


GIVEN = some("train/a", "train/b", "test/a", "test/b")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([*some("train/a", "train/b", "val/a", "val/b", "test/a")], "'b'.* in test"),
        ([*GIVEN, *some("val/b")], "'a'.* in dev"),
        ([*some("train/a", "test/a", "test/b"), "train/b/"], "'b'.* in train"),
        ([*some("a"), *some("b", count=2)], "'b'.* 2 .*at least 3"),
        (some("a"), "at least 2"),
        ([*some("a"), "b/"], "at least 2"),
        (["a/", "b/"], "at least 2"),
        (["./"], "at least 2"),
        ([*GIVEN, *some("dogs", "c\nats")], r"c\\nats, dogs"),
        (some("val/a", "val/b", "test/a", "test/b"), "train"),
    ],
)
def test_what_is_missing_or_too_much_is_named(names: list[str], said: str) -> None:
    make(*names)
    assert re.search(said, refusal())


def test_an_empty_class_is_left_out_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    make(*some("a", "b"), "c\n/", "d/e/", ".hidden/")
    assert set(preprocessed().labels.values()) == {"a", "b"}
    first, second = (line for line in capsys.readouterr().out.splitlines() if "warning" in line)
    assert "'c\\n'" in first
    assert "'d'" in second


@pytest.mark.parametrize(("aspect", "edge"), [("crop", 200), ("pad", 114)])
def test_the_aspect_is_that_of_the_settings(aspect: str, edge: int) -> None:
    make(*some("a", "b"))
    Image.new("RGB", (64, 16), (200, 200, 200)).save(OWN / "a/0.png")
    assert (preprocessed(aspect=aspect).pixels["a/0.png"][[0, -1]] == edge).all()


def test_cifar10_exported_as_folders_has_the_same_pixels() -> None:
    drawn.write_archive(ARCHIVE, drawn.members(20))
    cifar10 = preprocessed("cifar10")
    exported = {}
    for name, pixels in cifar10.pixels.items():
        part = "test" if cifar10.parts[name] == "test" else "train"
        exported[name] = f"{part}/{cifar10.labels[name]}/{name.replace('/', ' ')}.png"
        (OWN / exported[name]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(OWN / exported[name])
    own = preprocessed(side=32)
    assert len(own.pixels) == 120
    for name, copy in exported.items():
        np.testing.assert_array_equal(own.pixels[copy], cifar10.pixels[name])
        assert own.labels[copy] == cifar10.labels[name]
        assert (own.parts[copy] == "test") == (cifar10.parts[name] == "test")


# --- archives

KINDS = ["zip", "tar", "gztar"]
TREES = {
    "flat": [*some("a", "b", count=12), "empty/"],
    "parts": [*GIVEN, *some("TRAIN/a/more", "TRAIN/b/more")],
    "wrapped": [*some("my photos/a", "my photos/b", count=12), "my photos/empty/"],
    "awkward": some(" \n\t", "-$%'\"", "\u00e9", "e\u0301/\U0001f600", "__MACOSX/a", count=6),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("place", ["in a folder", "link in a folder", "itself", "link"])
def test_an_archive_gives_the_bytes_of_the_folder(place: str, tree: str, kind: str) -> None:
    """Which has litter, a file that is no image and a link, too."""
    make(*TREES[tree])
    first = OWN / TREES[tree][0]
    for name in (".DS_Store", "._1.png", "no image.png"):
        first.with_name(name).write_text("text")
    first.with_name("link.png").symlink_to(first.name)
    expected = written()
    assert len(expected[2].splitlines()) >= 3  # no image, a duplicate
    archive = Path(shutil.make_archive("archive", kind, OWN)).absolute()
    shutil.rmtree(OWN)
    to = OWN
    if "folder" in place:
        OWN.mkdir()
        (OWN / ".DS_Store").touch()
        to = OWN / archive.name
    to.symlink_to(archive) if "link" in place else archive.rename(to)
    before = listing(PHOTOS)
    assert written() == expected
    assert listing(PHOTOS) == before


def test_a_link_to_a_folder_elsewhere_gives_the_bytes_of_the_folder() -> None:
    make(*TREES["flat"])
    expected = written()
    OWN.rename("elsewhere")
    OWN.symlink_to("../../elsewhere")
    assert written() == expected


@cache
def packed(kind: str, prefix: str = "") -> bytes:
    """Return an archive of two classes, without entries for folders."""
    content = {}
    for name in some("a", "b"):
        Image.fromarray(noise(name)).save(file := io.BytesIO(), "png")
        content[prefix + name] = file.getvalue()
    packing = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(packing, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return packing.getvalue()
    mode: Any = f"w:{kind.removeprefix('tar').removeprefix('.')}"
    with tarfile.open(fileobj=packing, mode=mode) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packing.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_names_in_an_archive_may_start_with_a_dot_and_a_slash(kind: str) -> None:
    """As bsdtar writes them, into zip files too."""
    OWN.write_bytes(packed(kind, "./"))
    found = preprocessed()
    assert sorted(found.labels.values()) == ["a"] * 4 + ["b"] * 4
    OWN.write_bytes(packed(kind))
    np.testing.assert_equal(list(found.pixels.values()), list(preprocessed().pixels.values()))


@given(
    kind=st.sampled_from(["zip", "tar", "tar.gz"]),
    place=st.floats(0, 1),
    content=st.binary(min_size=1, max_size=30),
    cut=st.booleans(),
)
def test_a_damaged_archive_is_one_line_or_read(
    kind: str, place: float, content: bytes, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    (folder / PHOTOS).mkdir(parents=True, exist_ok=True)
    whole = packed(kind)
    start = int(place * len(whole))
    damaged = whole[:start] + (b"" if cut else content + whole[start + len(content) :])
    with contextlib.chdir(folder):
        OWN.write_bytes(damaged)
        try:
            preprocessed()
        except PipelineError as error:
            assert str(error).isprintable()  # noqa: PT017 - it need not raise


OTHERS = {
    "empty": b"",
    "text": b"text",
    "xz": packed("tar.xz"),
    "an image": png_of(8, 8),
    "gzip of no tar": gzip.compress(b"text"),
    "a later zip": packed("zip").replace(b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\x40"),
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_what_is_no_archive_is_told_what_would_be(content: bytes) -> None:
    OWN.mkdir()
    (OWN / "new\nline").write_bytes(content)
    assert all(word in refusal() for word in ("new\\nline", ".zip", ".tar", ".tar.gz"))


# --- what is left out


def test_litter_changes_nothing() -> None:
    make(*some("a", "b"))
    expected = written()
    make("__MACOSX/a/._0.png", "a/._0.png", ".cache/x/0.png", "a/.git/1.png", "b/__MACOSX/0.png")
    for name in (".DS_Store", "a/Thumbs.db", "b/desktop.ini", "a/.hidden", "Desktop.ini"):
        (OWN / name).write_text("text")
    assert written() == expected


def test_up_to_a_tenth_may_be_unreadable() -> None:
    make(*some("a", "b", count=45))
    bad = [*(f"a/\n{number}.jpg" for number in range(9)), "README\n.txt"]
    for name in bad:
        (OWN / name).write_text("text")
    assert preprocessed().skipped.keys() == set(bad)
    (OWN / "b/11th.png").touch()
    said = refusal()
    assert "11 of 101" in said
    assert any(name.replace("\n", "\\n") in said for name in (*bad, "b/11th.png"))


def test_a_folder_that_cannot_be_read_names_the_documentation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Root, who may run this, reads every folder."""
    make(*some("a", "b"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", Mock(side_effect=PermissionError(13, "Permission denied")))
        assert refusal().endswith("; make it readable or leave it out; see docs/own-images.md")


@pytest.mark.parametrize("name", ["a/late.png", "a/0.png"])
def test_photos_that_change_while_they_are_read_are_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would record the folder as it is after the stage, and not run the stage again."""
    make(*some("a", "b"))
    decoded = folders.decoded

    def while_one_is_written(*arguments: Any) -> Any:
        make(name)
        return decoded(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "decoded", while_one_is_written)
        assert "changed while it was read; run `dvc repro` again" in refusal()
    preprocessed()


def test_duplicates_are_left_out_and_listed_with_what_they_equal() -> None:
    """However many: they are no mistake."""
    make(*some("train/a", "train/b", "val/a", "val/b", "test/a", "test/b"))
    copies = {  # of what comes first; that one stays, if it is of the same class
        "test/a/0.png": ["train/a/again.png", "val/a/again.png"],
        "val/b/0.png": ["train/b/again.png"],
        "train/a/1.png": ["train/a/1 again.png"],
        "train/a/2.png": ["train/b/not a.png"],
        "train/b/3.png": ["test/a/not b.png"],
    }
    for name, others in copies.items():
        for other in others:
            shutil.copy(OWN / name, OWN / other)
    stored = preprocessed()
    in_two_classes = {"train/a/2.png", "train/b/3.png"}
    of_equal_name = {"train/a/1 again.png", "train/a/1.png"}  # whichever
    expected = in_two_classes.union(*copies.values()) - of_equal_name
    assert stored.skipped.keys() - of_equal_name == expected
    assert len(stored.skipped.keys() & of_equal_name) == 1
    assert stored.labels.keys().isdisjoint(stored.skipped)
    for name, others in copies.items():
        assert all(name in stored.skipped.get(other, name) for other in others)


def test_copies_under_other_names_move_no_image() -> None:
    make(*some("a", "b", count=20))

    def part_of_pixels() -> dict[bytes, str]:
        stored = preprocessed()
        return {stored.pixels[name].tobytes(): part for name, part in stored.parts.items()}

    before = part_of_pixels()
    for name in some("a", count=20):
        shutil.copy(OWN / name, (OWN / name).with_name(f"- copy of {Path(name).name}"))
    assert part_of_pixels() == before


def test_photos_are_decoded_in_order_and_not_far_ahead_of_what_is_written() -> None:
    """Else a disk that is slower than the cores would leave all of them in memory."""
    ahead = folders.AHEAD * loky.cpu_count()
    listed = [folders.Photo(f"{number}.png", "a", "") for number in range(5 * ahead)]
    opened: list[str] = []

    def read(name: str) -> io.BytesIO:
        opened.append(name)
        return io.BytesIO()  # no image, which is quickly found out

    decoded = folders.decoded(listed, read, SIDE, "crop")
    first, _ = next(decoded)
    time.sleep(0.5)
    assert len(opened) <= 1 + ahead
    assert [first, *(photo for photo, _ in decoded)] == listed


# --- a folder of awkward files

WHITE = (255, 255, 255)
NAMES = [
    *("with space.png", "new\nline.png", "tab\t.png", "\r.png", "\x1b[31m.png", " .png", "end "),
    *("\u00e9.png", "e\u0301.png", "\U0001f600.png", "\u202egnp.png", f"{FF}.png", "n" * 255),
    *("-rf.png", "--help", "'\"`.png", "$HOME $(ls).png", "%s%d%.png", "a,b;c.png", "\\.png"),
    *("*?[a].png", "#.png", "~", "=1+1.png", "&lt;<b>.png", "no suffix", "UPPER.PNG", "a.txt"),
    *("png.jpg", "png.gif", "a.png.zip", "a.tar.gz", "nested.jpg/deep/a.png"),
]


def upper_half(color: tuple[int, int, int], mode: str, suffix: str, **options: Any) -> bytes:
    """Draw a square, the lower half white or, where the mode allows it, transparent."""
    image = Image.new("RGB", (64, 64), WHITE)
    image.paste(color, (0, 0, 64, 32))
    if mode.endswith("A"):
        alpha = Image.new("L", (64, 64), 0)
        alpha.paste(255, (0, 0, 64, 32))
        image.paste(0, (0, 32, 64, 64))
        image.putalpha(alpha)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        image = image.quantize(2)
        if "transparency" in options:
            options["transparency"] = image.getpixel((0, 40))
    else:
        image = image.convert(mode)
    if options.get("exif"):
        image = image.transpose(Image.Transpose.ROTATE_90)
    options = {"format": Image.registered_extensions().get(suffix.lower())} | options
    image.save(file := io.BytesIO(), lossless=True, **options)
    return file.getvalue()


def readable() -> dict[str, tuple[tuple[int, int, int], bytes]]:
    """Return name, color and content of files that are images, each of another color."""
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    frames = {"save_all": True, "append_images": [Image.new("RGB", (64, 64), "green")]}
    kinds: dict[tuple[str, str], dict[str, Any]] = {
        **{("RGB", name): {"format": "png"} for name in NAMES},
        **{("RGB", f"a.{suffix}"): {} for suffix in ("JPG", "bmp", "ico", "tga", "jp2", "ppm")},
        **{("RGB", f"turned.{suffix}"): {"exif": turned} for suffix in ("jpg", "png", "webp")},
        **{("RGB", f"frames.{suffix}"): frames for suffix in ("gif", "webp", "png", "tif", "mpo")},
        **{(mode, f"{mode}.png"): {} for mode in ("1", "L", "LA", "P", "RGBA", "I;16")},
        **{("P", f"clear.{suffix}"): {"transparency": True} for suffix in ("gif", "png")},
        ("RGB", "progressive.jpg"): {"progressive": True},
        ("RGB", "lzw.tif"): {"compression": "tiff_lzw"},
        **{(mode, f"{mode}.tif"): {} for mode in ("CMYK", "I;16")},
        **{("CMYK", "cmyk.jpg"): {}, ("L", "gray.jpg"): {}, ("RGBA", "clear.webp"): {}},
    }
    found = {}
    for number, ((mode, name), options) in enumerate(kinds.items()):
        color = (number % 6 * 40, number // 6 % 6 * 40, 100 + number // 36 * 80)
        if mode in ("L", "LA", "I;16", "1"):
            color = (0 if mode == "1" else 3 * number,) * 3
        found[name] = color, upper_half(color, mode, Path(name).suffix, **options)
    return found


def make_unreadable(top: Path) -> dict[str, str]:
    """Make one file of each kind that is no image; return what is said of each, by name."""
    jpeg = upper_half((9, 9, 9), "RGB", ".jpg")
    brands = b"ftypheic" + bytes(4) + b"mif1heic"
    contents = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "runcated"),
        "text.jpg": (b"text", "no format"),
        "empty.png": (b"", "no format"),
        "bomb.png": (png_of(60_000, 60_000), "3600000000 pixels"),
        "photo.heic": (struct.pack(">I", 4 + len(brands)) + brands + bytes(40), "pillow-heif"),
        "a.zip": (packed("zip"), "no format"),
        "12 bits.tif": (tiff(bits=12), "neither 8 or 16 bits"),
        "a.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no format"),
        f'{FF}\n,".pdf': (b"%PDF-1.4\n", "no format"),
    }
    for name, (content, _) in contents.items():
        (top / name).write_bytes(content)
    said = {name: reason for name, (_, reason) in contents.items()}
    for name, target in (("broken", "nothing"), ("folder", "../a"), ("itself", "itself")):
        (top / name).symlink_to(target)
    os.mkfifo(top / "pipe.jpg")  # opened, it would block
    said |= dict.fromkeys(("broken", "folder", "itself", "pipe.jpg"), "link|pipe")
    (top / "private.png").write_bytes(jpeg)
    (top / "private.png").chmod(0)
    if os.access(top / "private.png", os.R_OK):  # as root
        (top / "private.png").unlink()
    else:
        said["private.png"] = "Permission denied"
    return said


def test_of_awkward_files_each_is_read_right_or_listed_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    make(*some("a", "b", count=50))
    top = OWN / "a\nwkward"
    images = readable()
    for name, (_, content) in images.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    images["linked.png"] = (77, 7, 177), upper_half((77, 7, 177), "RGB", ".png")
    Path("elsewhere.png").write_bytes(images["linked.png"][1])
    (top / "linked.png").symlink_to(Path("elsewhere.png").absolute())
    unreadable = make_unreadable(top)
    assert len(images | unreadable) > 70
    before = listing(OWN)
    stored = preprocessed()
    assert listing(OWN) == before

    skipped = {name.removeprefix("a\nwkward/"): reason for name, reason in stored.skipped.items()}
    assert skipped.keys() == unreadable.keys()
    for name, reason in skipped.items():
        assert any(word in reason for word in unreadable[name].split("|")), (name, reason)
        assert reason.isprintable()
    for name, (color, _) in images.items():
        pixels = stored.pixels[f"a\nwkward/{name}"].astype(int)
        np.testing.assert_allclose(pixels[0], [color] * SIDE, atol=6, err_msg=name)
        np.testing.assert_allclose(pixels[-1], [WHITE] * SIDE, atol=6, err_msg=name)
    assert len(stored.labels) == 100 + len(images)
