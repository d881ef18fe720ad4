"""The network that is trained from scratch: it is the one of the paper, and it learns."""

import keras
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from bench import scratch

IMAGES = np.random.default_rng(1).integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)


def test_the_first_layer_whitens_patches_and_convolutions_begin_as_the_identity() -> None:
    net = scratch.network(IMAGES, 10)
    kernel, bias = net.get_layer("whitening").get_weights()
    normalized = (IMAGES - np.array(scratch.MEAN)) / scratch.DEVIATION
    windows = sliding_window_view(normalized, (2, 2), (1, 2)).transpose(0, 1, 2, 4, 5, 3)
    white = windows.reshape(-1, 12) @ kernel[..., :12].reshape(12, 12)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(12), atol=2e-3)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    assert not bias.any()
    widening, same = scratch.identity((3, 3, 2, 3), "float32"), scratch.identity((3, 3, 2, 2), "")
    np.testing.assert_array_equal(widening[..., :2], same)
    x = np.random.default_rng(2).normal(size=(3, 3, 2))
    np.testing.assert_array_equal(np.einsum("ijk,ijkl->l", x, same), x[1, 1])
    assert widening[..., 2].all()
    kernels = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 256 * 10
    offsets = 24 + 2 * 64 + 4 * 256
    assert sum(v.numpy().size for v in net.trainable_variables) == kernels + offsets


@pytest.mark.bench
def test_it_learns_in_the_time_that_it_is_given() -> None:
    dark = IMAGES // 2
    x, y = np.concatenate([dark, 255 - dark]), np.repeat([0, 1], len(dark))
    keras.utils.set_random_seed(1)
    net = scratch.network(x, 2)
    assert scratch.train(net, x, y, seconds=-1, seed=1) == 0
    assert scratch.accuracy(net, x, y) < 0.8
    assert scratch.train(net, x, y, seconds=20, seed=1) > 3
    assert scratch.accuracy(net, x, y) == 1
