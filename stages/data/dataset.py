"""The data set as `preprocess` stores it.

images.npy, mapped: uint8 (rows, height, width, 3). labels.npz: for each row `labels`, uint16; for
each part, `train`, `dev` and `test`, its rows, int64, a row in one part at most; `class_names`;
`image_shape`; `aspect`. about.json, which only evaluate and report read: see `DataSet.about`.
"""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.files import mapped, read_arrays, reading
from stages.paths import ABOUT, IMAGES, LABELS

PARTS = ("train", "dev", "test")


class Rows:
    """Some rows of mapped images, uint8 (n, height, width, 3); what is indexed is read."""

    def __init__(self, images: npt.NDArray[np.uint8], index: npt.NDArray[np.int64]) -> None:
        self._images, self._index = images, index
        self.shape = (len(index), *images.shape[1:])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, part: "slice | npt.NDArray") -> npt.NDArray[np.uint8]:
        return self._images[self._index[part]]


class DataSet:
    """The stored data set; images are not read before they are indexed.

    Attributes:
        class_names: str (classes,), in the order of the labels.
        image_shape: (height, width, 3).
        aspect: how photos were made square, "crop" or "pad".
    """

    def __init__(self) -> None:
        names = ("class_names", "image_shape", "aspect")
        self.class_names, shape, aspect = read_arrays(LABELS, *names)
        self.image_shape, self.aspect = tuple(map(int, shape)), str(aspect)

    def labels(self, *parts: str) -> npt.NDArray[np.uint16]:
        """Return the labels of some parts, one after the other: (n,), in [0, classes)."""
        return read_arrays(LABELS, "labels")[0][_index(parts)]

    def images(self, *parts: str) -> Rows:
        """Return the images of some parts."""
        return Rows(mapped(IMAGES), _index(parts))

    def files(self, *parts: str) -> npt.NDArray[np.str_]:
        """Return the names of the images of some parts, (n,)."""
        return np.array(self.about()["files"])[_index(parts)]

    def about(self) -> dict[str, Any]:
        """Return `files`, the names of the rows; `title`, `notes`, Markdown; `source`, SHA-256."""
        with reading(ABOUT):
            return json.loads(ABOUT.read_text(encoding="utf-8"))


def _index(parts: tuple[str, ...]) -> npt.NDArray[np.int64]:
    return np.concatenate(read_arrays(LABELS, *parts))
