"""Views of the training images."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.data.dataset import Rows
from stages.data.views import View
from tests.conftest import ALL

FEATURES = ALL.features
OTHERS: dict[str, Any] = {"zoom": 0.5, "color": 0.3, "rotation": 15.0}
IMAGES = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


def view(number: int, pixels: int, seed: int = 1, **others: object) -> np.ndarray:
    settings = FEATURES.model_copy(update={"shift": pixels / 32, "seed": seed, **others})
    return View(IMAGES, number, settings)[:]


def test_the_first_is_plain_and_odd_ones_are_mirrored_unless_flip_is_false() -> None:
    assert (view(0, 4, **OTHERS) == IMAGES).all()
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


def test_color_changes_brightness_contrast_and_saturation() -> None:
    """Each by another factor, found from two grays and a color in one image."""
    image = np.full((32, 32, 3), 100, np.uint8)
    image[:16], image[:16, :16] = 60, (90, 120, 60)
    mean = np.asarray(Image.fromarray(image).convert("L")).mean()
    factors = []
    for seed in range(30):
        settings = FEATURES.model_copy(update={"shift": 0.0, "color": 0.3, "seed": seed})
        (found,) = View(image[None], 2, settings)[:].astype(float)
        light, dark, tinted = found[31, 31], found[0, 31], found[0, 0]
        assert np.ptp(light) == np.ptp(dark) == 0
        of_both = (light[0] - dark[0]) / 40  # brightness times contrast
        brightness = (light[0] - of_both * (100 - mean)) / mean
        factors += [(brightness, of_both / brightness, np.ptp(tinted) / 60 / of_both)]
    assert (np.abs(np.array(factors) - 1) <= 0.3 + 0.05).all()
    assert (np.ptp(factors, axis=0) > 0.4).all()


@given(rotation=st.integers(1, 90), seed=st.integers(0, 2**32 - 1))
def test_an_image_is_rotated_by_at_most_the_angle(rotation: int, seed: int) -> None:
    """Of a ramp, that is: rotated, it rises in another direction."""
    ramp = np.broadcast_to(np.arange(0, 128, 4, dtype=np.uint8)[:, None], (1, 32, 32, 3))
    settings = FEATURES.model_copy(update={"shift": 0.0, "rotation": rotation, "seed": seed})
    found = View(ramp, 2, settings)[:][0, 8:24, 8:24, 0].astype(float)
    down, across = (np.diff(found, axis=axis).mean() for axis in (0, 1))
    assert np.hypot(down, across) == pytest.approx(4, abs=0.3)
    assert abs(np.degrees(np.arctan2(down, across))) <= rotation + 2


@pytest.mark.parametrize("others", [{}, *({name: value} for name, value in OTHERS.items())])
def test_number_and_seed_decide_the_view(others: dict[str, Any]) -> None:
    pixels = 0 if others else 4
    assert (view(1, pixels, 7, **others) == view(1, pixels, 7, **others)).all()
    assert (view(1, pixels, 7, **others) != view(1, pixels, 8, **others)).any()
    assert (view(1, pixels, 7, **others) != view(3, pixels, 7, **others)).any()


@given(number=st.integers(0, 5), start=st.integers(0, 6), stop=st.integers(0, 6))
def test_a_piece_of_a_view_is_that_piece(number: int, start: int, stop: int) -> None:
    for images in (IMAGES, Rows(IMAGES, np.arange(6))):
        whole = View(images, number, FEATURES)
        assert len(whole) == len(IMAGES)
        assert (whole[start:stop] == view(number, 4)[start:stop]).all()
        altered = View(images, number, FEATURES.model_copy(update=OTHERS))
        piece = slice(start % 6, start % 6 + 2)
        assert (altered[piece] == altered[:][piece]).all()
