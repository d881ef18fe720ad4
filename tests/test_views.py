"""Views of the training images."""

import tracemalloc
from pathlib import Path

import keras
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.transfer import activations
from stages.transfer.dataset import mapped
from stages.transfer.views import View

IMAGES = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


def view(images: np.ndarray, number: int, shift: int, seed: int) -> np.ndarray:
    return View(images, number, shift, seed)[:]


def test_the_first_is_plain_and_odd_ones_are_mirrored() -> None:
    assert (view(IMAGES, 0, 4, 1) == IMAGES).all()
    assert (view(IMAGES, 1, 0, 1) == IMAGES[:, :, ::-1]).all()
    assert (view(IMAGES, 2, 0, 1) == IMAGES).all()


@given(number=st.integers(1, 5), shift=st.integers(1, 16), seed=st.integers(0, 2**32 - 1))
def test_each_image_is_moved_by_at_most_the_shift(number: int, shift: int, seed: int) -> None:
    moved = view(IMAGES, number, shift, seed)
    assert moved.shape == IMAGES.shape
    assert moved.dtype == np.uint8
    source = IMAGES[:, :, ::-1] if number % 2 else IMAGES
    for before, after in zip(source, moved, strict=True):
        padded = np.pad(before, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
        assert any(
            (padded[top : top + 32, left : left + 32] == after).all()
            for top in range(2 * shift + 1)
            for left in range(2 * shift + 1)
        )


def test_number_and_seed_decide_the_view() -> None:
    assert (view(IMAGES, 1, 4, 7) == view(IMAGES, 1, 4, 7)).all()
    assert (view(IMAGES, 1, 4, 7) != view(IMAGES, 1, 4, 8)).any()
    assert (view(IMAGES, 1, 4, 7) != view(IMAGES, 3, 4, 7)).any()


@given(number=st.integers(0, 5), start=st.integers(0, 6), stop=st.integers(0, 6))
def test_a_piece_of_a_view_is_that_piece(number: int, start: int, stop: int) -> None:
    whole = View(IMAGES, number, 4, 1)
    assert len(whole) == len(IMAGES)
    assert (whole[start:stop] == whole[:][start:stop]).all()


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Images are mapped, views made in pieces, activations written to a mapped file."""
    pooling = keras.layers.AveragePooling2D(8)
    model = keras.Sequential([keras.Input((32, 32, 3)), pooling])

    def peak(count: int) -> int:
        np.savez(tmp_path / "a.npz", x=np.zeros((count, 32, 32, 3), np.uint8))
        tracemalloc.start()
        images = View(mapped(tmp_path / "a.npz", "x"), 1, 4, 1)
        activations.compute(model, images, tmp_path / "a.npy", 50, "test")
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(100)  # what the first call leaves in caches
    few, many = peak(500), peak(8000)
    assert many - few < 100 * (8000 - 500)  # bytes; an image alone has 3,072
