"""Views: augmented copies of training images, stored so that frozen layers run once per view."""

import numpy as np
import numpy.typing as npt

from stages.errors import PipelineError


class View:
    """One view of the images, computed on demand; supports `len` and slicing.

    View 0 is the plain images. Each later one is shifted by up to `shift` pixels in each direction,
    the border filled by reflection; odd ones are also mirrored left to right: the augmentation of
    He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2), who fill with zeros and draw
    anew for each epoch; here it is drawn once per view.

    Args:
        images: uint8 (n, height, width, 3); a slice of the view is uint8 (k, height, width, 3).
        number: which view, from 0.
        shift: largest displacement, in pixels of these images.
        seed: of the displacements, with `number`.
    """

    def __init__(self, images: npt.NDArray[np.uint8], number: int, shift: int, seed: int) -> None:
        self._images = images
        self._mirrored = number % 2 == 1
        self._shift = shift if number else 0
        if self._shift >= (side := min(images.shape[1:3])):
            raise PipelineError(f"features.shift = {shift}: expected less than {side} pixels")
        rng = np.random.default_rng((seed, number))
        self._offsets = rng.integers(0, 2 * self._shift + 1, (2, len(images), 1), np.int16)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        images = np.asarray(self._images[part])
        if self._mirrored:
            images = images[:, :, ::-1]
        n, height, width, _ = images.shape
        top, left = self._offsets[:, part] - self._shift
        rows = _reflected(np.arange(height) + top, height)
        columns = _reflected(np.arange(width) + left, width)
        return images[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflected(positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Fold positions beyond an edge back inside, the edge itself not repeated."""
    positions = np.abs(positions)
    return np.where(positions >= size, 2 * (size - 1) - positions, positions)
