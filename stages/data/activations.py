"""Activations at the cut: computed once, stored as float16, each row under a key.

A key is the SHA-256 of an image's pixels and of all else that its activations depend on. A row that
an earlier run has stored, be it finished or interrupted, is copied; the others are computed.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import numpy.typing as npt
import yaml
from tqdm import tqdm

from stages.errors import PipelineError
from stages.files import digest, mapped

if TYPE_CHECKING:
    from stages.data.dataset import Rows
    from stages.data.views import View

KEY = hashlib.sha256().digest_size
AT_ONCE = 64  # images read at a time
# Of images to their activations, in the same order: a `Prefix`, here or on a cluster.
Forward = Callable[[Iterator[npt.NDArray]], Iterable[npt.NDArray[np.float16]]]


class Prefix:
    """A frozen model that computes full batches, the last one padded with zeros.

    Args:
        model: images (batch_size, ...) -> activations.
        batch_size: images.

    Attributes:
        shape: of an image's activations.
        piece: images after which results are flushed to disk, or sent over a network: whole
            batches, about 1,000 images, fewer if they or their activations exceed 64 MiB.
    """

    def __init__(self, model: keras.Model, batch_size: int) -> None:
        self._model, self._size = model, batch_size
        self.shape = tuple(model.output_shape[1:])
        largest = max(2 * math.prod(self.shape), math.prod(model.input_shape[1:]))  # bytes
        images = min(1_000, 2**26 // largest + 1)
        self.piece = math.ceil(images / batch_size) * batch_size

    def __call__(self, images: Iterable[npt.NDArray]) -> Iterator[npt.NDArray[np.float16]]:
        """Yield the activations of each image.

        Raises:
            PipelineError: a value exceeds float16's range (65,504).
        """
        for batch in batched(images, self._size):
            yield from self._batch(batch)

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
    """Activations, NAME.npy, float16 (n, ...), and their keys, NAME.keys, KEY bytes a row.

    Both are written in a folder of their own, which an interrupted run leaves behind, then moved.
    Keys are an output by themselves, so that later stages depend on activations alone.

    Args:
        arrays: output folder of the activations. What DVC's cache has of it is copied from.
        keys: output folder of the keys.
        work: folder to write in. If an interrupted run has left it with the same `run`, that run
            is continued; with another, its rows are copied from.
        run: names all that the number and order of the rows depend on.
        basis: names all that a row depends on beside its pixels.
    """

    def __init__(self, arrays: Path, keys: Path, work: Path, run: str, basis: str) -> None:
        self._outputs = {work / "arrays": arrays, work / "keys": keys}
        self._basis = hashlib.sha256(basis.encode())
        self._work, self._interrupted = work, work.with_name(f"{work.name}.interrupted")
        mark, run = work / "run", hashlib.sha256((run + basis).encode()).hexdigest()
        if not (mark.exists() and mark.read_text() == run):
            if any(path.stat().st_size for path in work.glob("keys/*")):
                shutil.rmtree(self._interrupted, ignore_errors=True)
                work.rename(self._interrupted)
            shutil.rmtree(work, ignore_errors=True)
        for folder in self._outputs:
            folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(run)
        self.known = dict(_rows(cached(self._outputs.values())))
        self.known.update(_rows({path.name: path for path in self._interrupted.glob("*/*")}))

    def add(
        self, name: str, images: "npt.NDArray | Rows | View", prefix: Prefix, forward: Forward
    ) -> None:
        """Store the activations of images (n, ...) as NAME.npy and their keys as NAME.keys.

        Raises:
            PipelineError: of `forward`.
            OSError: they do not fit on the disk.
        """
        path = self._work / "arrays" / f"{name}.npy"
        key_path = self._work / "keys" / f"{name}.keys"
        try:
            self._write(path, key_path, images, prefix, forward)
        except PipelineError as error:
            raise PipelineError(f"{name}: {error}") from error
        except OSError as error:
            error.filename = error.filename or str(path)
            if not (key_path.exists() and key_path.stat().st_size):  # nothing to resume from
                path.unlink(missing_ok=True)
                key_path.unlink(missing_ok=True)
            raise
        size = path.stat().st_size / 2**20
        print(f"{name}: {len(images)} images, {self.computed} computed, {size:.0f} MiB", flush=True)

    def _write(
        self,
        path: Path,
        key_path: Path,
        images: "npt.NDArray | Rows | View",
        prefix: Prefix,
        forward: Forward,
    ) -> None:
        count = len(images)
        done = _begin(path, key_path, (count, *prefix.shape), prefix.piece)
        found = self._keyed(images, done, forward)
        name = path.stem
        shown = tqdm(found, name, count, initial=done, unit="image", mininterval=2, disable=None)
        rows = iter(shown)
        # write(), not a memory map: a full disk raises OSError instead of SIGBUS.
        with path.open("r+b") as file, key_path.open("ab") as keys:
            file.seek((done - count) * 2 * math.prod(prefix.shape), os.SEEK_END)
            while piece := list(islice(rows, prefix.piece)):
                file.writelines(row.data for _, row in piece)
                # Keys after their rows, on the disk too, so that a stored key implies a stored row.
                file.flush()
                os.fsync(file.fileno())
                keys.write(b"".join(key for key, _ in piece))
                keys.flush()

    def _keyed(
        self, images: "npt.NDArray | Rows | View", start: int, forward: Forward
    ) -> Iterator[tuple[bytes, npt.NDArray[np.float16]]]:
        """Yield key and activations of each image from `start` on."""
        self.computed = 0
        order: deque[bytes] = deque()  # keys of what was read and not yet yielded

        def new() -> Iterator[npt.NDArray]:
            for first in range(start, len(images), AT_ONCE):
                for image in images[first : first + AT_ONCE]:
                    order.append(self._key(image))
                    if order[-1] not in self.known:
                        self.computed += 1
                        yield image

        for row in chain(forward(new()), [None]):  # None: all is read, all new rows are yielded
            while order and order[0] in self.known:
                key = order.popleft()
                array, number = self.known[key]
                yield key, array[number]
            if row is not None:
                yield order.popleft(), row

    def finish(self) -> None:
        """Move what was written to the output folders."""
        for folder, output in self._outputs.items():
            shutil.rmtree(output, ignore_errors=True)
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, output)
        for folder in (self._work, self._interrupted):
            shutil.rmtree(folder, ignore_errors=True)

    def _key(self, image: npt.NDArray) -> bytes:
        key = self._basis.copy()
        key.update(np.ascontiguousarray(image).data)
        return key.digest()


def batched(images: Iterable[npt.NDArray], size: int) -> Iterator[npt.NDArray]:
    """Stack up to `size` images at a time."""
    images = iter(images)
    while batch := list(islice(images, size)):
        yield np.stack(batch)


def cached(outputs: Collection[Path]) -> dict[str, Path]:
    """Return where DVC's cache has the files of output folders of the last run, by name.

    DVC removes an output before it runs the stage, but dvc.lock still names it. The cache is as in
    https://dvc.org/doc/user-guide/project-structure/internal-files.
    """
    files: dict[str, Path] = {}
    # No DVC, no run yet, not in this cache, or damaged there: all is computed.
    with contextlib.suppress(Exception):
        lock = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))
        outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
        digests = [out["md5"] for out in outs if Path(out["path"]) in outputs]
        if not digests:  # saves the start of DVC
            return files
        command = [sys.executable, "-m", "dvc", "cache", "dir"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        cache = Path(result.stdout.strip(), "files", "md5")
        for md5 in digests:
            for file in json.loads((cache / md5[:2] / md5[2:]).read_text(encoding="utf-8")):
                path = cache / file["md5"][:2] / file["md5"][2:]
                if digest(path, "md5") == file["md5"]:
                    files[file["relpath"]] = path
    return files


def _rows(files: dict[str, Path]) -> Iterator[tuple[bytes, tuple[npt.NDArray[np.float16], int]]]:
    """Yield the key of each stored row, and the array and index that it has."""
    for name, path in files.items():
        # What is damaged or missing is computed.
        with contextlib.suppress(OSError, KeyError, PipelineError):
            if name.endswith(".npy"):
                keys, array = files[f"{name[:-4]}.keys"].read_bytes(), mapped(path)
                for number in range(min(len(array), len(keys) // KEY)):
                    yield keys[number * KEY : (number + 1) * KEY], (array, number)


def _begin(path: Path, keys: Path, shape: tuple[int, ...], piece: int) -> int:
    """Make the file of an array, all zeros yet, unless it is there; return how many rows are."""
    done = 0
    with contextlib.suppress(OSError, PipelineError):
        if mapped(path).shape == shape:
            done = keys.stat().st_size // KEY
            done = done if done == shape[0] else done // piece * piece
    if not done:
        with path.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 2 * math.prod(shape))
    keys.touch()
    os.truncate(keys, done * KEY)
    return done
