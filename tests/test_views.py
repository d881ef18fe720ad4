"""Views of the training images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.data.dataset import Rows
from stages.data.views import View
from tests.conftest import ALL

FEATURES = ALL.features
IMAGES = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


def view(number: int, pixels: int, seed: int = 1, **others: object) -> np.ndarray:
    settings = FEATURES.model_copy(update={"shift": pixels / 32, "seed": seed, **others})
    return View(IMAGES, number, settings)[:]


def test_the_first_is_plain_and_odd_ones_are_mirrored_unless_flip_is_false() -> None:
    assert (view(0, 4, zoom=0.5) == IMAGES).all()
    assert (view(1, 0) == IMAGES[:, :, ::-1]).all()
    assert (view(2, 0) == IMAGES).all()
    assert (view(1, 0, flip=False) == IMAGES).all()


@given(number=st.integers(1, 5), shift=st.integers(1, 31), seed=st.integers(0, 2**32 - 1))
def test_each_image_is_moved_by_at_most_the_shift(number: int, shift: int, seed: int) -> None:
    moved = view(number, shift, seed)
    assert moved.shape == IMAGES.shape
    assert moved.dtype == np.uint8
    source = IMAGES[:, :, ::-1] if number % 2 else IMAGES
    for before, after in zip(source, moved, strict=True):
        padded = np.pad(before, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32, 3))
        assert (windows == after).all(axis=(-3, -2, -1)).any()


@given(zoom=st.floats(0.01, 0.9), seed=st.integers(0, 2**32 - 1))
def test_a_zoomed_image_is_a_square_part_of_it(zoom: float, seed: int) -> None:
    """Of a ramp, that is: less steep, by the same factor in both directions."""
    ramp = np.arange(0, 128, 4)
    image = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 7), axis=-1).astype(np.uint8)
    settings = FEATURES.model_copy(update={"shift": 0.0, "zoom": zoom, "seed": seed})
    (part,) = View(image[None], 2, settings)[:].astype(int)
    across, down = np.ptp(part[..., 0], axis=1) / 124, np.ptp(part[..., 1], axis=0) / 124
    assert (part[..., 2] == 7).all()
    for found in (across, down):
        assert (found >= 1 - zoom - 0.03).all()
        assert (found <= 1).all()
    assert abs(across.mean() - down.mean()) < 0.05


@pytest.mark.parametrize(("pixels", "zoom"), [(4, 0.0), (0, 0.5)])
def test_number_and_seed_decide_the_view(pixels: int, zoom: float) -> None:
    assert (view(1, pixels, 7, zoom=zoom) == view(1, pixels, 7, zoom=zoom)).all()
    assert (view(1, pixels, 7, zoom=zoom) != view(1, pixels, 8, zoom=zoom)).any()
    assert (view(1, pixels, 7, zoom=zoom) != view(3, pixels, 7, zoom=zoom)).any()


@given(number=st.integers(0, 5), start=st.integers(0, 6), stop=st.integers(0, 6))
def test_a_piece_of_a_view_is_that_piece(number: int, start: int, stop: int) -> None:
    for images in (IMAGES, Rows(IMAGES, np.arange(6))):
        whole = View(images, number, FEATURES)
        assert len(whole) == len(IMAGES)
        assert (whole[start:stop] == view(number, 4)[start:stop]).all()
        zoomed = View(images, number, FEATURES.model_copy(update={"zoom": 0.5}))
        piece = slice(start % 6, start % 6 + 2)
        assert (zoomed[piece] == zoomed[:][piece]).all()
