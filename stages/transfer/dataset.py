"""The images in data/processed/cifar10.npz, read when they are needed and not before."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.transfer.files import reading

LOCAL_HEADER = 30  # bytes of a zip member's header; the lengths of its two last fields end it


def arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """Return some arrays of an .npz, in the order of the names.

    Raises:
        PipelineError: the file is damaged, or lacks one.
    """
    with reading(path), np.load(path) as file:
        return [file[name] for name in names]


def mapped(path: Path, name: str) -> npt.NDArray[np.uint8]:
    """Map an array of an .npz into memory, so that memory does not grow with the images.

    `np.load(mmap_mode=...)` does not map what is in an .npz. `np.savez` stores arrays as they are,
    one after the other, so each can be mapped from where it begins.

    Args:
        path: written by `np.savez`, not compressed.
        name: of the array.

    Raises:
        PipelineError: the file is damaged or lacks the array, or it is compressed.
    """
    with reading(path):
        return _mapped(path, name)


def _mapped(path: Path, name: str) -> npt.NDArray[np.uint8]:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, expected what np.savez writes")
        with archive.open(member) as file:
            np.lib.format.read_magic(file)
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
            before_data = file.tell()
    with path.open("rb") as file:
        file.seek(member.header_offset)
        lengths = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])
    offset = member.header_offset + LOCAL_HEADER + sum(lengths) + before_data
    return np.memmap(path, dtype, "r", offset, shape, "F" if by_column else "C")
