"""The checkpoint: what fine-tuning goes on from when it was interrupted, to the same bits.

One file, `paths.CHECKPOINT`, outside the outputs, which DVC deletes before it runs a stage. It
carries a fingerprint of all that its content depends on, and under another fingerprint it is not
used. A stage that has ended leaves none.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.files import replacing

FINGERPRINT = "fingerprint"


class Checkpoint:
    """Arrays in one .npz file; the fingerprint is text that names all that this run depends on."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._fingerprint = fingerprint

    def save(self, arrays: Mapping[str, npt.NDArray]) -> None:
        """Store arrays in the place of what stood there, whole or not at all."""
        with replacing(self.path) as partial:
            named = {**arrays, FINGERPRINT: np.array(self._fingerprint)}
            np.savez(partial, **named)  # type: ignore[arg-type]

    def load(self) -> dict[str, npt.NDArray] | None:
        """Return the arrays; None if there are none, if they are damaged or of another run."""
        try:
            with np.load(self.path) as file:
                arrays = dict(file)  # all of it is read, and with it a checksum of each array
            if str(arrays.pop(FINGERPRINT)) == self._fingerprint:
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
