"""Views: augmented copies of the training images, made once so that frozen work is done once."""

import numpy as np
import numpy.typing as npt


def view(
    images: npt.NDArray[np.uint8], number: int, shift: int, seed: int
) -> npt.NDArray[np.uint8]:
    """Return one view of the images.

    View 0 is the plain images. Each later one is moved by up to `shift` pixels in both directions,
    the border filled by reflection; odd ones are also mirrored left to right: the augmentation of
    He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2), drawn once per view.

    Args:
        images: uint8 (n, 32, 32, 3).
        number: which view, from 0.
        shift: largest displacement, in pixels of the 32x32 image.
        seed: of the displacements; with `number` it decides them.

    Returns:
        uint8 (n, 32, 32, 3).
    """
    if number == 0:
        return images
    if number % 2:
        images = images[:, :, ::-1]
    if shift == 0:
        return np.ascontiguousarray(images)
    n, height, width, _ = images.shape
    rng = np.random.default_rng((seed, number))
    top, left = rng.integers(0, 2 * shift + 1, (2, n, 1))
    rows = _reflected(np.arange(height) - shift + top, height)
    columns = _reflected(np.arange(width) - shift + left, width)
    return images[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflected(positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Fold positions beyond an edge back inside, the edge itself not repeated."""
    positions = np.abs(positions)
    return np.where(positions >= size, 2 * (size - 1) - positions, positions)
