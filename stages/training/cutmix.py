"""CutMix: a rectangle of each image comes from another one, and so does that share of its label.

Yun et al. 2019, https://arxiv.org/abs/1905.04899, here on the activations at the cut, which keep
the images' layout.
"""

import numpy as np
import numpy.typing as npt

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def cutmix(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], seed: tuple[int, ...]) -> Batch:
    """Exchange one rectangle among the images of a batch.

    Its share of the area is drawn evenly from [0, 1) and its place evenly inside the image, the
    same for the whole batch; each image gives to one and takes from one, itself perhaps.

    Args:
        x: float32 (n, height, width, channels).
        y: float32 (n, classes), one-hot.
        seed: decides share, place and partners.

    Returns:
        Mixed copies of both. The labels of each image add up to 1 as before.
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
    share = np.float32(rows * columns / (height * width))
    return mixed, (1 - share) * y + share * y[partner]
