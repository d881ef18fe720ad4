"""Checkpoints: what a stage that was interrupted goes on from, to the same bits.

They stand in a folder of their own, outside the outputs, which DVC deletes before it runs a stage.
Each folder carries the fingerprint of all that its content depends on; under another fingerprint it
is thrown away. The launcher removes a stage's checkpoints when a later stage starts: by then DVC
has recorded what they led to. Anybody may remove them at any time.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import yaml

from stages.transfer.environment import environment
from stages.transfer.files import digest, reading, replacing
from stages.transfer.paths import CHECKPOINTS

if TYPE_CHECKING:
    from stages.transfer.params import Params

FINGERPRINT = "fingerprint.json"
DIGEST = "sha256"  # among the arrays of a file: of all others


def fingerprint(stage: str, params: "Params") -> dict[str, Any]:
    """Return what a stage's result depends on: what dvc.yaml names, and the surroundings.

    Args:
        stage: its name in dvc.yaml, which stands in the current folder.
        params: that the stage works with. The file may have been changed since they were read.

    Returns:
        Its parameters; its dependencies, a file by its digest, the files in a folder, which may be
        many gigabytes, by size and time of last change; the environment.

    Raises:
        PipelineError: dvc.yaml does not have the stage.
    """
    return {
        "params": parameters(stage, params),
        "deps": {path: _identity(Path(path)) for path in _definition(stage)["deps"]},
        "environment": environment(),
    }


def parameters(stage: str, params: "Params") -> dict[str, Any]:
    """Return those parameters that a stage depends on, by their names in dvc.yaml."""
    values = params.model_dump()
    return {key: _value(values, key) for key in _definition(stage)["params"]}


def _definition(stage: str) -> Any:
    path = Path("dvc.yaml")
    with reading(path):
        return yaml.safe_load(path.read_text())["stages"][stage]


class Checkpoints:
    """The folder of one stage's checkpoints.

    Args:
        stage: its name.
        depends_on: the fingerprint of this run. What a run with another one has left is removed,
            with a line that says so.
        folder: where the folders of all stages stand.

    Attributes:
        folder: this stage's own; it exists.
    """

    def __init__(self, stage: str, depends_on: dict[str, Any], folder: Path = CHECKPOINTS) -> None:
        self.folder = folder / stage
        record = self.folder / FINGERPRINT
        if self.folder.exists():
            try:
                found = json.loads(record.read_text())
            except (OSError, ValueError):
                found = None
            if found == json.loads(json.dumps(depends_on)):
                return
            print(f"{self.folder}: {_difference(found, depends_on)}; begins anew", flush=True)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        with replacing(record) as partial:
            partial.write_text(json.dumps(depends_on))
            _to_disk(partial)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path to write a file to, which `has` will know as the block left it.

        The outputs may share the file's bytes, by a hard link: who writes to an output in place
        changes the checkpoint as well, and must not find it in the next run's results.
        """
        with replacing(self.folder / name) as partial:
            yield partial
            _to_disk(partial)
        with replacing(self._mark(name)) as partial:
            partial.write_text(json.dumps(_state(self.folder / name)))

    def has(self, name: str) -> bool:
        """Return whether a file is there and has not changed since `writing`."""
        try:
            found: Any = json.loads(self._mark(name).read_text())
            return found == _state(self.folder / name)
        except (OSError, ValueError):
            return False

    def _mark(self, name: str) -> Path:
        return self.folder / f"{name}.finished.json"

    def save(self, name: str, arrays: Mapping[str, npt.NDArray]) -> None:
        """Store arrays under a name, in the place of what stood there, whole or not at all."""
        with replacing(self.folder / f"{name}.npz") as partial:
            own = {DIGEST: np.array(_digest(arrays))}
            np.savez(partial, **arrays, **own)  # type: ignore[arg-type]
            _to_disk(partial)

    def load(self, name: str) -> dict[str, npt.NDArray] | None:
        """Return the arrays of that name; None if there are none, or if they are damaged."""
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path) as file:
                arrays = dict(file)
            if str(arrays.pop(DIGEST)) != _digest(arrays):
                raise ValueError("not what was written")
            return arrays
        except FileNotFoundError:
            return None
        except Exception as error:  # a zip's directory can be damaged in more ways than are named
            print(f"{path}: damaged ({error}); begins anew", flush=True)
            return None


def _digest(arrays: Mapping[str, npt.NDArray]) -> str:
    """Return a digest of names, types, shapes and contents, in hexadecimal."""
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _value(content: Any, key: str) -> Any:
    for name in key.split("."):
        content = content[name]
    return content


def _identity(path: Path) -> Any:
    if not path.is_dir():
        return digest(path)
    return [[part.name, *_state(part)] for part in sorted(path.iterdir())]


def _state(path: Path) -> list[int]:
    """Return a file's size in bytes and the time of its last change, which differ if it does."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _difference(found: Any, expected: dict[str, Any]) -> str:
    """Say in what a fingerprint is not the expected one."""
    if not isinstance(found, dict):
        return "damaged"
    names = [name for name in expected if found.get(name) != expected[name]]
    return f"of a run with other {' and '.join(names)}"


def _to_disk(path: Path) -> None:
    """Return when the disk has it: a rename must not outlive the bytes in a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
