"""Activations at the cut: computed once, stored as float16, each row under a key.

A key is the SHA-256 of an image's pixels and of all else that its activations depend on. A row that
an earlier run has stored, be it finished or interrupted, is copied; the others are computed.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import keras
import numpy as np
import numpy.typing as npt
from ruamel.yaml import YAML
from tqdm import tqdm

from stages.errors import PipelineError
from stages.files import digest, mapped, write_rows
from stages.runtime import in_parallel

if TYPE_CHECKING:
    from stages.cluster import Cluster
    from stages.data.dataset import Rows
    from stages.data.views import View

KEY = hashlib.sha256().digest_size
AT_ONCE = 64  # images read at a time
Known = dict[bytes, npt.NDArray[np.float16]]  # stored activations by key


class Prefix:
    """A frozen model that computes full batches, the last one padded with zeros.

    Args:
        model: images (batch_size, ...) -> activations.
        batch_size: images.

    Attributes:
        shape: of an image's activations.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self._model, self._size = model, batch_size
        model.make_predict_function()  # else each thread may trace it
        self.shape = tuple(model.output_shape[1:])

    def __call__(self, images: Iterable[npt.NDArray]) -> Generator[npt.NDArray[np.float16]]:
        """Yield the activations of each image.

        Raises:
            PipelineError: a value exceeds float16's range (65,504).
        """
        for batch in in_parallel(self._batch, batched(images, self._size)):
            yield from batch

    def is_independent(self, images: npt.NDArray) -> bool:
        """Tell whether the rest of a batch changes no bit of an image's activations."""
        batch = self._batch(images)
        others = self._batch(images[::-1])[::-1], self._batch(images[:1])
        return all(np.array_equal(batch[: len(other)], other) for other in others)

    def _batch(self, images: npt.NDArray) -> npt.NDArray[np.float16]:
        padding = [(0, self._size - len(images)), *[(0, 0)] * (images.ndim - 1)]
        computed = self._model.predict_on_batch(np.pad(images, padding))[: len(images)]
        with np.errstate(over="ignore"):
            stored = computed.astype(np.float16)
        if not np.isfinite(stored).all():
            raise PipelineError(
                f"an activation of {np.abs(computed).max():.3g} does not fit float16 "
                "(65504 at the most); choose another backbone.cut"
            )
        return stored


class Store:
    """Writes the activations of images; rows that an earlier run has stored are copied.

    Args:
        basis: names everything that a row depends on besides its pixels.
        prefix: computes the other rows.
        known: rows that an earlier run has stored, by key.
        kept: folder that computed rows are first saved in, to be copied to the output: by the next
            run, too, if this one is interrupted.

    Attributes:
        known: these, and the rows of interrupted runs.
    """

    def __init__(self, basis: str, prefix: "Prefix | Cluster", known: Known, kept: Path) -> None:
        # With the shape: one file of kept rows has rows of one shape.
        self._basis, self._prefix = hashlib.sha256(f"{basis} {prefix.shape}".encode()), prefix
        self.known = known
        self._record = np.dtype([("key", f"V{KEY}"), ("row", np.float16, prefix.shape)])
        self._kept = kept / self._basis.hexdigest()
        if not self._kept.exists():  # nothing, or rows of other settings or code
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True, exist_ok=True)
            self._kept.touch()
        if count := self._kept.stat().st_size // self._record.itemsize:
            records = np.memmap(self._kept, self._record, "r", shape=count)
            self.known.update(_by_key(records["key"], records["row"]))
        os.truncate(self._kept, count * self._record.itemsize)

    def write(self, path: Path, keys_folder: Path, images: "npt.NDArray | Rows | View") -> None:
        """Write the activations of images (n, ...) to NAME.npy, their keys to NAME.keys.

        Raises:
            PipelineError: as the prefix does.
            OSError: they do not fit on the disk.
        """
        count, name, start = len(images), path.stem, self._kept.stat().st_size
        keys_path = keys_folder / f"{name}.keys"
        parts = (images[i : i + AT_ONCE] for i in range(0, count, AT_ONCE))
        each = chain.from_iterable(parts)
        shown = tqdm(each, name, count, unit="image", mininterval=2, disable=None)
        try:
            with keys_path.open("wb") as keys:
                self._compute(shown, keys)
        except PipelineError as error:
            raise PipelineError(f"{name}: {error}") from error
        with keys_path.open("rb") as keys, self._kept.open("rb") as kept:
            kept.seek(start)
            write_rows(path, "<f2", self._prefix.shape, self._copied(keys, kept))
            computed = (kept.tell() - start) // self._record.itemsize
        size = path.stat().st_size / 2**20
        print(f"{name}: {count} images, {computed} computed, {size:.0f} MiB", flush=True)

    def _compute(self, images: Iterable[npt.NDArray], keys: BinaryIO) -> None:
        """Write the key of each image to `keys`; append the rows that are not known to `kept`."""
        waiting: deque[bytes] = deque()  # keys of images that were read and are not yet computed

        def unknown() -> Iterator[npt.NDArray]:
            for image in images:
                key = self._key(image)
                keys.write(key)
                if key not in self.known:
                    waiting.append(key)
                    yield image

        with self._kept.open("ab") as kept, contextlib.closing(self._prefix(unknown())) as rows:
            for row in rows:
                kept.write(waiting.popleft() + row.tobytes())

    def _copied(self, keys: BinaryIO, kept: BinaryIO) -> Iterator[npt.NDArray[np.float16]]:
        """Yield the activations under each key: known ones, or the next of those kept."""
        while key := keys.read(KEY):
            if key in self.known:
                yield self.known[key]
            else:
                yield np.frombuffer(kept.read(self._record.itemsize), self._record)["row"][0]

    def _key(self, image: npt.NDArray) -> bytes:
        key = self._basis.copy()
        key.update(np.ascontiguousarray(image).data)
        return key.digest()


def batched(images: Iterable[npt.NDArray], size: int) -> Iterator[npt.NDArray]:
    """Stack up to `size` images at a time."""
    images = iter(images)
    while batch := list(islice(images, size)):
        yield np.stack(batch)


def cached(stage: str) -> Known:
    """Return the rows that the stage's last run has stored, by key.

    DVC has removed these outputs (`persist: true` would leave them, but exclude the stage from the
    run cache); they are still in its cache, which is as in
    https://dvc.org/doc/user-guide/project-structure/internal-files, and named by dvc.lock.
    """
    rows: Known = {}
    # No DVC, no run yet, not in this cache: all is computed.
    with contextlib.suppress(Exception):
        outs = YAML(typ="safe").load(Path("dvc.lock"))["stages"][stage]["outs"]
        command = [sys.executable, "-m", "dvc", "cache", "dir"]
        cache = Path(subprocess.check_output(command, text=True).strip(), "files", "md5")

        def of(md5: str) -> Path:
            return cache / md5[:2] / md5[2:]

        files = [file for out in outs for file in json.loads(of(out["md5"]).read_bytes())]
        # Without what is damaged there.
        paths = {f["relpath"]: p for f in files if digest(p := of(f["md5"]), "md5") == f["md5"]}
        for name, path in paths.items():
            if name.endswith(".npy") and (keys := paths.get(f"{name[:-4]}.keys")):
                rows.update(_by_key(np.fromfile(keys, f"V{KEY}"), mapped(path)))
    return rows


def _by_key(keys: npt.NDArray[np.void], rows: npt.NDArray[np.float16]) -> Known:
    # Rows of an array take less memory than those of a memmap.
    return {k.tobytes(): row for k, row in zip(keys, np.asarray(rows), strict=True)}
