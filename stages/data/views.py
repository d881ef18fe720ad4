"""Views: augmented copies of training images, stored so that frozen layers run once per view."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from stages.data.dataset import Rows
    from stages.params import Features


class View:
    """One view of the images, computed on demand; supports `len` and slicing.

    View 0 is the plain images. Each later one is shifted by up to `shift` in each direction, the
    border filled by reflection; odd ones are also mirrored left to right: the augmentation of
    He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2), who fill with zeros and draw
    anew for each epoch; here it is drawn once per view.

    Before that, `zoom` cuts out a random part, with a side of 1 - zoom to 1 of the image's, and
    resizes it (Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, section 6).

    Args:
        images: uint8 (n, height, width, 3); a slice of the view is uint8 (k, height, width, 3).
        number: which view, from 0.
        settings: flip; shift and zoom, fractions of the side; their seed.
    """

    def __init__(
        self, images: "npt.NDArray[np.uint8] | Rows", number: int, settings: "Features"
    ) -> None:
        self._images = images
        self._mirrored = settings.flip and number % 2 == 1
        height, width = images.shape[1:3]
        self._shift = int(settings.shift * min(height, width)) if number else 0
        rng = np.random.default_rng((settings.seed, number))
        self._offsets = rng.integers(0, 2 * self._shift + 1, (2, len(images), 1), np.int16)
        self._boxes = None
        if number and settings.zoom:
            scale, left, top = rng.random((3, len(images)))
            scale = 1 - settings.zoom * scale
            left, top = left * (1 - scale), top * (1 - scale)
            boxes = np.stack([left, top, left + scale, top + scale], axis=1)
            self._boxes = boxes.clip(0, 1) * (width, height, width, height)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        images = np.asarray(self._images[part])
        if self._boxes is not None:
            images = np.stack(list(map(_cropped, images, self._boxes[part])))
        if self._mirrored:
            images = images[:, :, ::-1]
        n, height, width, _ = images.shape
        top, left = self._offsets[:, part] - self._shift
        rows = _reflected(np.arange(height) + top, height)
        columns = _reflected(np.arange(width) + left, width)
        return images[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _cropped(image: npt.NDArray[np.uint8], box: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    drawn = Image.fromarray(image)
    return np.asarray(drawn.resize(drawn.size, Image.Resampling.BILINEAR, tuple(box)))


def _reflected(positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Fold positions beyond an edge back inside, the edge itself not repeated."""
    positions = np.abs(positions)
    return np.where(positions >= size, 2 * (size - 1) - positions, positions)
