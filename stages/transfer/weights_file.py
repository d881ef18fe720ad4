"""HDF5 files of weights from elsewhere: looked through before Keras reads them.

Keras refuses links out of the file too, but only after HDF5 has followed them, and takes up to
4 GiB for each dataset that declares them.
"""

import math
import mmap
from pathlib import Path

import h5py

from stages.transfer.errors import PipelineError, reason

SUFFIXES = (".h5", ".hdf5")  # for other names Keras opens archives, and folders of files
# Floats hardly compress. What declares far more than the file holds would only fill the memory.
EXPANSION = 20
ALLOWANCE = 2**20  # bytes: in a small file small things weigh more
NAMES = ("layer_names", "weight_names")  # attributes; long ones go on in layer_names0 and so on
NAMES_LIMIT = 10_000
TEXT_LIMIT = 2**28  # bytes that the texts of one attribute can come to
HEAP = b"GCOL\x01"  # where HDF5 keeps texts: signature and version, then 3 bytes, then the size


def check(path: Path) -> None:
    """Refuse a file that is no HDF5 file, reads other files, or declares more than it holds.

    Args:
        path: a weights file, as Keras saves or publishes them.

    Raises:
        PipelineError: with what was found where.
    """
    if path.suffix not in SUFFIXES:
        raise PipelineError(f"{path}: expected a name that ends in .weights.h5 or .h5")
    try:
        with h5py.File(path, "r") as file:
            found = _fault(file)
    # A damaged file can raise nearly anything.
    except Exception as error:
        raise PipelineError(
            f"{path}: expected HDF5, a weights file as Keras saves them: {reason(error)}"
        ) from error
    if found:
        raise PipelineError(f"{path}: {found}; expected weights as Keras saves them")


def _fault(file: h5py.File) -> str | None:
    """Return what is wrong with a file, or None. Links are looked at before they are followed."""
    path = Path(file.filename)
    left = EXPANSION * path.stat().st_size + ALLOWANCE
    text = _longest_text(path)
    seen, waiting = {file["/"].id}, [file["/"]]
    while waiting:
        group = waiting.pop()
        if _attributes_at_fault(group, text):
            return f"{group.name[:100]!r} names a layer or a weight twice, or too many"
        for name in group:
            where = repr(f"{group.name}/{name}".replace("//", "/")[:100])
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                return f"{where} is a link to elsewhere"
            item = group[name]
            if item.id in seen:
                return f"{where} is there under two names"
            seen.add(item.id)
            if isinstance(item, h5py.Group):
                waiting.append(item)
                continue
            if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu":
                return f"{where} is no array of numbers"
            if item.external or item.is_virtual:
                return f"{where} is in another file"
            left -= math.prod(item.shape or ()) * item.dtype.itemsize
            if left < 0:
                return f"{where}, of shape {item.shape}, declares more than the file holds"
            if _attributes_at_fault(item, text):
                return f"{where} has too many attributes"
    return None


def _longest_text(path: Path) -> int:
    """Return how many bytes a text of any length can have: those of the largest heap of texts."""
    longest = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(HEAP)
        while at >= 0:
            longest = max(longest, int.from_bytes(content[at + 8 : at + 16], "little"))
            at = content.find(HEAP, at + 1)
        return min(longest, len(content))


def _attributes_at_fault(item: h5py.Group | h5py.Dataset, text: int) -> bool:
    """Say whether the attributes would fill the memory, or let Keras read a weight repeatedly."""
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        count = math.prod(attribute.shape or ())
        # Texts of any length lie elsewhere in the file, and many may be the same one.
        if attribute.dtype.hasobject and count > 1 and count * text > TEXT_LIMIT:
            return True
        if name.startswith(NAMES):
            if count > NAMES_LIMIT:
                return True
            names = item.attrs[name]
            if len(set(names)) < len(names):
                return True
    return False
