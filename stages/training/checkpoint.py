"""The checkpoint for resuming fine-tuning bit for bit.

It is data/checkpoint/fine_tune.npz, outside the outputs, which DVC deletes before it runs a stage,
with a fingerprint of everything it depends on. It is ignored if that differs, and removed when the
stage ends.
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
        """Store arrays atomically, in the place of earlier ones."""
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
        except Exception as error:  # a damaged zip raises many exceptions
            why = f"damaged ({error})"
        print(f"{self.path}: {why}; starting over", flush=True)
        return None

    def remove(self) -> None:
        """Remove the file: the stage has ended."""
        self.path.unlink(missing_ok=True)
