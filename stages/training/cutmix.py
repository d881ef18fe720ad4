"""CutMix: a rectangle of each image comes from another one, and so does that part of its label.

Yun et al. 2019, https://arxiv.org/abs/1905.04899, here on the activations at the cut, which keep
the images' layout.
"""

import numpy as np
import numpy.typing as npt

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def cutmix(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], seed: tuple[int, ...]) -> Batch:
    """Exchange one rectangle among images (n, height, width, channels) and labels (n, classes).

    Its fraction of the area and its place inside the image are drawn uniformly, the same for the
    whole batch; the partners are a random permutation. The labels of an image still add up to 1.
    """
    rng = np.random.default_rng(seed)
    height, width = x.shape[1:3]
    side = np.sqrt(rng.random())
    rows, columns = round(height * side), round(width * side)
    top, left = rng.integers(0, (height - rows + 1, width - columns + 1))
    partner = rng.permutation(len(x))
    inside = np.s_[:, top : top + rows, left : left + columns]
    mixed = x.copy()
    mixed[inside] = x[partner][inside]
    mixed_in = np.float32(rows * columns / (height * width))
    return mixed, (1 - mixed_in) * y + mixed_in * y[partner]
