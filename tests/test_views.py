"""Views of the training images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.data.views import View
from stages.errors import PipelineError

IMAGES = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


def view(number: int, shift: int, seed: int = 1) -> np.ndarray:
    return View(IMAGES, number, shift, seed)[:]


def test_the_first_is_plain_and_odd_ones_are_mirrored() -> None:
    assert (view(0, 4) == IMAGES).all()
    assert (view(1, 0) == IMAGES[:, :, ::-1]).all()
    assert (view(2, 0) == IMAGES).all()
    with pytest.raises(PipelineError, match=r"shift = 32: expected less than 32 pixels$"):
        view(1, 32)


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


def test_number_and_seed_decide_the_view() -> None:
    assert (view(1, 4, seed=7) == view(1, 4, seed=7)).all()
    assert (view(1, 4, seed=7) != view(1, 4, seed=8)).any()
    assert (view(1, 4, seed=7) != view(3, 4, seed=7)).any()


@given(number=st.integers(0, 5), start=st.integers(0, 6), stop=st.integers(0, 6))
def test_a_piece_of_a_view_is_that_piece(number: int, start: int, stop: int) -> None:
    whole = View(IMAGES, number, 4, 1)
    assert len(whole) == len(IMAGES)
    assert (whole[start:stop] == whole[:][start:stop]).all()
