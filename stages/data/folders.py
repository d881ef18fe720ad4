"""Read photos from class folders, or from one archive of class folders."""

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import threading
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import loky
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from stages.data import photos
from stages.data.photos import LITTER, printable, walk
from stages.errors import PipelineError, reason
from stages.paths import IMAGES

# Photos decoded at a time, for each core: enough that waiting for the last of them costs little.
AHEAD = 16
PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}

# The name of a file -> the file, opened.
Read = Callable[[str], IO[bytes]]


class Photo(NamedTuple):
    """A file in a class folder; the digests are known once it has been read."""

    name: str  # path below the data set's folder, with slashes
    label: str  # name of the class
    part: str  # train, dev or test, as its folder is called; else empty
    content: bytes = b""  # SHA-256 of the file
    pixels: bytes = b""  # SHA-256 of the image as it is stored


@contextmanager
def opened(place: Path) -> Iterator[tuple[list[str], Read]]:
    """Open a folder or an archive; a folder with nothing but one archive is that archive.

    Nothing is extracted or written there. Hidden files and what archivers or operating systems
    leave behind are left out. Links to folders are not followed, as DVC does not follow them.

    Yields:
        Names of files and, with a slash at the end, folders; a function that opens a file, in any
        thread.

    Raises:
        PipelineError: a folder cannot be read, a file is no archive or a damaged one.
    """
    files = list(walk(place))
    if len(files) == 1:
        (place,) = files
    with ExitStack() as stack:
        if place.is_dir():
            names, read = _folder(files, place)
        else:
            names, read = _archive(place, stack)
        inside = {name.removeprefix("./"): name for name in names}
        visible = [name for name in inside if not any(map(LITTER.match, name.split("/")))]
        yield visible, lambda name: read(inside[name])


def _folder(files: list[Path], top: Path) -> tuple[list[str], Read]:
    def read(name: str) -> IO[bytes]:
        if not (path := top / name).is_file():  # a pipe would block
            raise ValueError("a link to a folder or to nothing, a pipe or a device")
        return path.open("rb")

    names = [path.relative_to(top).as_posix() for path in files]
    return names + [f"{Path(path).relative_to(top)}/" for path, _, _ in os.walk(top)], read


def _archive(place: Path, stack: ExitStack) -> tuple[list[str], Read]:
    try:
        if zipfile.is_zipfile(place):
            try:  # macOS writes UTF-8 without the flag for it
                archive = zipfile.ZipFile(place, metadata_encoding="utf-8")
            except UnicodeDecodeError:
                archive = zipfile.ZipFile(place)
            return archive.namelist(), stack.enter_context(archive).open
        file: IO[bytes] = stack.enter_context(place.open("rb"))
        with suppress(gzip.BadGzipFile), gzip.open(file) as content:
            # If compressed, it could not be read in any order but its own.
            unpacked = stack.enter_context(tempfile.TemporaryFile(dir=IMAGES.parent))  # noqa: SIM115
            shutil.copyfileobj(content, unpacked)
            file = unpacked
        file.seek(0)
        tar = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))  # noqa: SIM115
        members = {member.name + "/" * member.isdir(): member for member in tar}
    except Exception as error:  # of a damaged archive: many
        if isinstance(error, OSError) and error.errno:
            raise
        expected = "expected class folders, or one .zip, .tar or .tar.gz of them"
        raise PipelineError(f"{printable(place.name)}: {reason(error)}; {expected}") from error
    one_by_one = threading.Lock()

    def read(name: str) -> IO[bytes]:
        with one_by_one:
            content = tar.extractfile(members[name])
            return io.BytesIO(content.read() if content else b"")

    return list(members), read


def layout(names: Iterable[str]) -> tuple[list[Photo], set[str], list[str]]:
    """Infer classes and parts from the names of files and, with a slash at the end, folders.

    A class is a folder; folders in it belong to it. Above classes there may be folders for parts,
    `PART_OF`, in any case, which are used as given. A single folder around all others is skipped.

    Returns:
        The photos, in the order of their names; the classes, also those without photos; the names
        of files in no class.

    Raises:
        PipelineError: beside folders for parts there are others, or none is for training.
    """
    paths = sorted(tuple(name.split("/")) for name in names)
    depth = 0

    def folders() -> set[str]:
        return {path[depth] for path in paths if len(path) > depth + 1}

    while len(folders()) == 1 and any(len(path) > depth + 2 for path in paths):
        depth += 1
    parts = {folder: PART_OF.get(folder.lower(), "") for folder in folders()}
    by_part = "train" in parts.values()
    if any(parts.values()) and by_part != all(parts.values()):
        raise PipelineError(
            f"folders {', '.join(map(printable, sorted(parts)))}: expected only train, val and "
            "test, with class folders in each, or only class folders; move the others elsewhere"
        )
    found: list[Photo] = []
    classes: set[str] = set()
    loose: list[str] = []
    for path in paths:
        name, is_folder = "/".join(path), path[-1] == ""
        if len(path) > depth + by_part + 1:
            # macOS decomposes accents. A name is printed, and written in UTF-8.
            label = printable(unicodedata.normalize("NFC", path[depth + by_part]))
            classes.add(label)
            if not is_folder:
                found.append(Photo(name, label, parts[path[depth]] if by_part else ""))
        elif not is_folder:
            loose.append(name)
    return found, classes, loose


def decoded(
    listed: Sequence[Photo], read: Read, side: int, aspect: str
) -> Iterator[tuple[Photo, npt.NDArray[np.uint8] | str]]:
    """Decode photos on all cores, a limited number ahead of the one that is yielded.

    Yields:
        In order, each photo, with its digests, and its image, uint8 (side, side, 3); or the photo
        and why it cannot be read.
    """

    def decode(photo: Photo) -> tuple[Photo, npt.NDArray[np.uint8] | str]:
        try:
            with read(photo.name) as file:
                image = photos.decode(file, (side, side), aspect)
                file.seek(0)
                content = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        except Exception as error:  # of a file, of a damaged archive, of `decode`
            return photo, getattr(error, "strerror", None) or reason(error)
        pixels = hashlib.sha256(image.data).digest()
        return photo._replace(content=content, pixels=pixels), image

    # In parts: `pool.map` decodes without limit, and if the disk is slower, all end up in memory.
    size, count = AHEAD * (cores := loky.cpu_count()), len(listed)
    with ThreadPoolExecutor(cores) as pool:
        parts = (pool.map(decode, listed[i : i + size]) for i in range(0, count, size))
        images = chain.from_iterable(parts)
        yield from tqdm(images, "preprocess", count, unit="image", mininterval=2, disable=None)
