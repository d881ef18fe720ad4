"""CutMix on a batch of activations."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.training.cutmix import cutmix


@given(
    n=st.integers(1, 9),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_image_is_two_and_its_label_says_how_much_of_each(
    n: int, height: int, width: int, seed: int
) -> None:
    # The value tells the image, and each image has a class of its own.
    x = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None, None], (n, height, width, 2))
    y = np.eye(n, dtype=np.float32)
    mixed, labels = cutmix(x, y, (seed,))
    assert mixed.shape == x.shape
    assert mixed.dtype == labels.dtype == np.float32
    for image, label in zip(mixed, labels, strict=True):
        shares = [(image == k).mean() for k in range(n)]
        np.testing.assert_allclose(label, shares, atol=1e-6)
        assert len(np.unique(image)) <= 2
    again, _ = cutmix(x, y, (seed,))
    assert (again == mixed).all()


def test_the_share_is_spread_evenly() -> None:
    x, y = np.zeros((2, 16, 16, 1), np.float32), np.eye(2, dtype=np.float32)
    taken = [cutmix(x, y, (i,))[1].min() for i in range(2000)]
    shares = [t for t in taken if t > 0]  # an image that is its own partner shows none
    assert 0.2 < np.mean(shares) < 0.3  # of an even draw folded at a half
