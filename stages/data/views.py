"""Views: augmented copies of training images, stored so that frozen layers run once per view."""

import hashlib
import json

import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.data.dataset import Rows
from stages.params import Features


class View:
    """One view of the images, computed on demand; supports `len` and slicing.

    View 0 is the plain images. Each later one is shifted by up to `shift` in each direction, the
    border filled by reflection; odd ones are also mirrored left to right: the augmentation of
    He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2), who fill with zeros and draw
    anew for each epoch; here it is drawn once per view, from the image's own pixels and the seed,
    so that adding or removing an image changes no other.

    Before that, `zoom` cuts out a random part, with a side of 1 - zoom to 1 of the image's, and
    resizes it (Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, section 6).

    Args:
        images: uint8 (n, height, width, 3); a slice of the view is uint8 (k, height, width, 3).
        number: which view, from 0.
        settings: flip; shift and zoom, fractions of the side; their seed.
    """

    def __init__(
        self, images: npt.NDArray[np.uint8] | Rows, number: int, settings: Features
    ) -> None:
        self._images, self._number, self._settings = images, number, settings
        self._mirrored = settings.flip and number % 2 == 1

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        images = np.asarray(self._images[part])
        if self._number == 0:
            return images
        n, height, width, _ = images.shape
        shift = int(self._settings.shift * min(height, width))
        draws = np.array([self._draws(image) for image in images]).reshape(n, 5)
        offsets = (draws[:, :2] * (2 * shift + 1)).astype(np.int64) - shift
        if self._settings.zoom:
            scale = 1 - self._settings.zoom * draws[:, 2:3]
            corner = draws[:, 3:] * (1 - scale)
            boxes = np.hstack([corner, corner + scale]).clip(0, 1) * (width, height, width, height)
            images = np.array(list(map(_cropped, images, boxes))).reshape(images.shape)
        if self._mirrored:
            images = images[:, :, ::-1]
        rows = _reflected(np.arange(height) + offsets[:, :1], height)
        columns = _reflected(np.arange(width) + offsets[:, 1:], width)
        return images[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]

    def _draws(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Derive five numbers in [0, 1) from the seed, the view and the pixels alone."""
        drawn = hashlib.sha256(json.dumps([self._settings.seed, self._number]).encode())
        drawn.update(np.ascontiguousarray(image).data)
        return np.frombuffer(drawn.digest(), "<u4")[:5] / 2**32


def _cropped(image: npt.NDArray[np.uint8], box: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    drawn = Image.fromarray(image)
    return np.asarray(drawn.resize(drawn.size, Image.Resampling.BILINEAR, tuple(box)))


def _reflected(positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Fold positions beyond an edge back inside, the edge itself not repeated."""
    positions = np.abs(positions)
    return np.where(positions >= size, 2 * (size - 1) - positions, positions)
