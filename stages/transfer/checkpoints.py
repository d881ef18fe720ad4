"""Checkpoints: what a stage that was interrupted goes on from, to the same bits.

They stand in a folder of their own, outside the outputs, which DVC deletes before it runs a stage.
Each folder carries the fingerprint of all that its content depends on; under another fingerprint it
is thrown away. The launcher removes a stage's checkpoints when a later stage starts: by then DVC
has recorded what they led to. Anybody may remove them at any time.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from stages.transfer.environment import environment
from stages.transfer.files import digest, replacing
from stages.transfer.paths import CHECKPOINTS

FINGERPRINT = "fingerprint.json"


def fingerprint(stage: str) -> dict[str, Any]:
    """Return what a stage's result depends on: what dvc.yaml names, and the surroundings.

    Args:
        stage: its name in dvc.yaml, which stands in the current folder, beside params.yaml.

    Returns:
        Its parameters; its dependencies, a file by its digest, the files in a folder, which may be
        many gigabytes, by size and time of last change; the environment.
    """
    own = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][stage]
    values = yaml.safe_load(Path("params.yaml").read_text())
    return {
        "params": {key: _value(values, key) for key in own["params"]},
        "deps": {path: _identity(Path(path)) for path in own["deps"]},
        "environment": environment(),
    }


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
            np.savez(partial, **arrays)  # type: ignore[arg-type]
            _to_disk(partial)

    def load(self, name: str) -> dict[str, npt.NDArray] | None:
        """Return the arrays of that name; None if there are none, or if they are damaged."""
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path) as file:
                return dict(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            print(f"{path}: damaged ({error}); begins anew", flush=True)
            return None


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
