"""Batches: each image once an epoch, each view in turn, mixed in training only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.training.batches import Batches, epoch_order


@given(
    count=st.integers(1, 600),
    window=st.integers(1, 300),
    chunk=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_order_has_each_image_once_and_chunks_stay_in_few_windows(
    count: int, window: int, chunk: int, seed: int
) -> None:
    order = epoch_order(count, window, seed, chunk)
    assert sorted(order) == list(range(count))
    window_of = np.empty(count, int)
    window_of[order] = np.arange(count) // window
    for start in range(0, count, chunk):
        windows = window_of[start : start + chunk]
        assert np.ptp(windows) <= -(-chunk // window)
    again = epoch_order(count, window, seed, chunk)
    assert (order == again).all()


def numbered_views(count: int, views: int) -> list[np.ndarray]:
    """Activations whose value tells the image, and whose second value tells the view."""
    return [
        np.stack([np.arange(count), np.full(count, v)], axis=1).astype(np.float16)
        for v in range(views)
    ]


@given(
    count=st.integers(1, 700),
    views=st.integers(1, 4),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 100),
)
def test_training_shows_each_image_once_an_epoch_and_each_view_in_turn(
    count: int, views: int, batch_size: int, seed: int
) -> None:
    labels = np.arange(count) % 3
    batches = Batches(numbered_views(count, views), labels, 3, batch_size, seed)
    seen: dict[int, list[int]] = {}
    for _ in range(views):
        x, y = (np.concatenate(part) for part in zip(*batches, strict=True))
        assert len(set(x[:, 0])) == len(x) == count - count % min(batch_size, count)
        assert (y.argmax(axis=1) == labels[x[:, 0].astype(int)]).all()
        for image, number in x.astype(int):
            seen.setdefault(image, []).append(number)
    assert all(len(set(numbers)) == len(numbers) for numbers in seen.values())


def test_without_a_seed_all_plain_images_come_in_order() -> None:
    batches = Batches(numbered_views(11, 1), np.zeros(11, int), 2, 4)
    x = np.concatenate([x for x, _ in batches])
    assert x[:, 0].tolist() == list(range(11))
    assert x.dtype == np.float32


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_seed_and_epoch_decide_the_order_and_what_is_mixed(share: float) -> None:
    view = np.arange(500, dtype=np.float16).reshape(-1, 1, 1, 1) * np.ones((6, 6, 1), np.float16)

    def seeded(seed: int) -> Batches:
        return Batches([view], np.zeros(500, int), 2, 100, seed, cutmix_fraction=share)

    def images(batches: Batches) -> np.ndarray:
        return np.concatenate([x for x, _ in batches])

    one, jumped = seeded(1), seeded(1)
    first = images(one)
    assert np.ptp(first, axis=(1, 2, 3)).any() == (share == 1.0)  # more than one value in an image
    assert np.any(first != images(seeded(2)))
    assert np.any(first != images(one))
    jumped.go_to(2)
    np.testing.assert_array_equal(images(one), images(jumped))


def test_no_two_draws_share_their_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy fills a short seed up with zeros: (1, 0) is the same as (1, 0, 0, 0)."""
    seeds, default_rng = [], np.random.default_rng

    def noted(seed: tuple[int, ...]) -> np.random.Generator:
        seeds.append(tuple(np.random.SeedSequence(seed).generate_state(4)))
        return default_rng(seed)

    monkeypatch.setattr(np.random, "default_rng", noted)
    images = np.zeros((40, 2, 2, 1), np.float16)
    batches = Batches([images], np.zeros(40, int), 2, 10, seed=1, cutmix_fraction=1.0)
    for _ in range(2):
        assert len(list(batches)) == 4
    assert len(seeds) == len(set(seeds)) == 2 + 2 * 4 * 2  # orders; for each batch two draws


def test_a_dataset_gives_the_batches_and_has_no_tuner() -> None:
    """With one, the end of `fit` waited in about half of the runs: no test of that is reliable."""
    batches = Batches(numbered_views(11, 1), np.arange(11) % 2, 2, 4)
    dataset = batches.dataset()
    assert not dataset.options().autotune.enabled
    assert len(dataset) == 3
    for (x, y), (same_x, same_y) in zip(dataset, batches, strict=True):
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(y, same_y)
