"""Find, load and resize photos; errors in one line."""

import re
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from stages.errors import PipelineError, reason

# Hidden, or left by archivers or operating systems.
LITTER = re.compile(r"\.|(__MACOSX|Thumbs\.db|desktop\.ini)$", re.IGNORECASE)
BORDER = (114, 114, 114)  # of padded photos
HEIC = re.compile(rb".{4}ftyp(.{4})*?he[iv][cxms]", re.DOTALL)
Image.init()  # all formats, before several threads read
warnings.filterwarnings("ignore", module="PIL")  # such files are read anyway, or raise an error


def read(path: Path, size: tuple[int, int], aspect: str) -> npt.NDArray[np.uint8]:
    """Do as `decode` for a file on disk.

    Raises:
        PipelineError: it is missing or `decode` raises; the message starts with the path.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise PipelineError("a folder, pipe or device; expected an image")
        with path.open("rb") as file:
            return decode(file, size, aspect)
    except (OSError, PipelineError) as error:
        fault = f"{error.strerror}; expected an image" if isinstance(error, OSError) else error
        raise PipelineError(f"{printable(path)}: {fault}") from error


def decode(file: IO[bytes], size: tuple[int, int], aspect: str) -> npt.NDArray[np.uint8]:
    """Return an image as RGB, uint8 (*size, 3); the format is detected from the content.

    It is rotated according to its EXIF data, and transparency becomes white. Then it is resized to
    `size`, (height, width) (Lanczos, with antialiasing): with the aspect "crop", the largest
    centered part that has the shape of `size`; with "pad", all of it, with a gray border. Of
    several images in a file, the first is taken.

    Raises:
        PipelineError: it is damaged, too large, no image that Pillow reads (HEIC needs
            pillow-heif), or its values are neither 8 or 16 bits nor floats in [0, 1].
    """
    resize = ImageOps.fit if aspect == "crop" else partial(ImageOps.pad, color=BORDER)
    try:
        if HEIC.match(file.read(64)):
            import pillow_heif

            pillow_heif.register_heif_opener()
        with Image.open(file) as image:
            # Decode JPEG at down to 1/8 scale: a 12-megapixel photo takes a quarter of the
            # time, values within 2 of 255.
            image.draft(None, (8 * max(size), 8 * max(size)))
            image.load()
            # Of odd EXIF data: Pillow writes it back after it has rotated the image.
            with suppress(struct.error, TypeError):
                ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(resize(_rgb(image), size[::-1], Image.Resampling.LANCZOS))
    except ImportError:
        fault = f"HEIC; `{sys.executable} -m pip install pillow-heif` to read it, or convert it"
    except UnidentifiedImageError:
        fault = "in no format that Pillow reads; expected an image"
    except Image.DecompressionBombError as error:  # it names both numbers
        fault = " pixels; expected at most ".join(re.findall(r"\d+", str(error)))
    except Exception as error:  # each of Pillow's formats has its own for a damaged file
        fault = f"{getattr(error, 'strerror', None) or reason(error)}; expected an image"
    raise PipelineError(fault)


def walk(top: Path) -> Iterator[Path]:
    """Yield a file, or all files below a folder, sorted, images or not.

    Hidden files and folders are left out. A link to a folder is yielded, not followed.

    Raises:
        PipelineError: a folder cannot be read.
    """
    try:
        if not top.is_dir():
            yield top
            return
        inside = sorted(path for path in top.iterdir() if not LITTER.match(path.name))
    except OSError as error:
        fault = f"{printable(top)}: {error.strerror}; make it readable or leave it out"
        raise PipelineError(fault) from error
    for path in inside:
        yield from [path] if path.is_symlink() else walk(path)


def printable(text: Path | str) -> str:
    """Return a path or a text with control and undecodable characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # `convert` would cut off at 255
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = values.min(), values.max()
    bits = getattr(image, "tag_v2", {}).get(258, (16,))  # a TIFF may have 12
    if bits == (16,) and (image.mode.startswith("I;16") or image.format == "PPM"):
        scale = 1 / 257
    elif image.mode == "F" and low >= 0 and high <= 1:  # false of NaN
        scale = 255
    else:
        expected = "neither 8 or 16 bits nor floats in [0, 1]"
        raise ValueError(f"{values.dtype} from {low} to {high}, {expected}")
    gray = (values.astype(np.float32) * scale).round().astype(np.uint8)
    gray[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(gray)
