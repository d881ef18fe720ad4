"""The checkpoint: what fine-tuning goes on from when it was interrupted, to the same bits.

One file, `paths.CHECKPOINT`, outside the outputs, which DVC deletes before it runs a stage. It
carries a fingerprint of all that its content depends on, and under another fingerprint it is not
used. A stage that has ended leaves none.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stages import params, runtime
from stages.files import replacing

if TYPE_CHECKING:
    from stages.params import Params

FINGERPRINT = "fingerprint"


def fingerprint(stage: str, values: "Params") -> str:
    """Return as text what a stage's result depends on.

    Args:
        stage: its name in dvc.yaml, which stands in the current folder.
        values: the settings that it works with. The file may have been changed meanwhile.

    Returns:
        Its settings; the files that dvc.yaml names as its dependencies, which may be many
        gigabytes, by size and time of last change; the environment.
    """
    files: list[Path] = []
    for path in map(Path, params.definition(stage)["deps"]):
        files += [path] if path.is_file() else sorted(path.glob("*.*"))
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return json.dumps([params.of_stage(stage, values), states, runtime.description()])


class Checkpoint:
    """Arrays in one file, replaced whole.

    Args:
        path: an .npz file.
        depends_on: the fingerprint of this run.
    """

    def __init__(self, path: Path, depends_on: str) -> None:
        self.path = path
        self._depends_on = depends_on

    def save(self, arrays: Mapping[str, npt.NDArray]) -> None:
        """Store arrays in the place of what stood there, whole or not at all."""
        with replacing(self.path) as partial:
            named = {**arrays, FINGERPRINT: np.array(self._depends_on)}
            np.savez(partial, **named)  # type: ignore[arg-type]

    def load(self) -> dict[str, npt.NDArray] | None:
        """Return the arrays; None if there are none, if they are damaged or of another run."""
        try:
            with np.load(self.path) as file:
                arrays = dict(file)  # all of it is read, and with it a checksum of each array
            if str(arrays.pop(FINGERPRINT)) == self._depends_on:
                return arrays
            why = "from a different run (settings, inputs, code or environment)"
        except FileNotFoundError:
            return None
        except Exception as error:  # a zip can be damaged in more ways than are named
            why = f"damaged ({error})"
        print(f"{self.path}: {why}; starting over", flush=True)
        return None

    def remove(self) -> None:
        """Remove the file: the stage has ended."""
        self.path.unlink(missing_ok=True)
