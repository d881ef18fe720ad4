"""Photos are divided by hashes of their pixels, so that what is tested stays tested."""

import hashlib
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data import parts
from stages.data.folders import Photo
from stages.errors import PipelineError
from stages.params import Preprocess

PARTS = ("train", "dev", "test")
SEEDS = st.integers(0, 2**32 - 1)


def photos_of(counts: dict[str, int], part: str = "") -> list[Photo]:
    """Return so many photos of each class."""
    return [
        Photo(f"{part}/{label}/{number}.jpg", label, part)
        for label, count in counts.items()
        for number in range(count)
    ]


def divided(
    photos: list[Photo], test: float = 0.15, dev: float = 0.1, seed: int = 1, salt: int = 1
) -> dict[str, set[Photo]]:
    """Return the photos of each part; the content follows from the name and `salt`."""
    contents = [hashlib.sha256(f"{salt} {photo.name}".encode()).digest() for photo in photos]
    read = [photo._replace(content=c) for photo, c in zip(photos, contents, strict=True)]
    fractions = Preprocess(test_fraction=test, dev_fraction=dev, seed=seed)
    found = parts.divide(read, fractions)
    assert found.keys() == {photo.name for photo in photos}
    return {part: {photo for photo in photos if found[photo.name] == part} for part in PARTS}


@settings(max_examples=30)
@given(seed=SEEDS, salt=SEEDS, order=st.randoms(use_true_random=False))
def test_added_photos_move_no_other(seed: int, salt: int, order: random.Random) -> None:
    """In classes so large that each part has photos by their hashes alone."""
    photos = photos_of({"a": 300, "b": 200})
    more = photos_of({"a": 600, "b": 210, "c": 3})
    order.shuffle(more)
    before = divided(photos, seed=seed, salt=salt)
    after = divided(more, seed=seed, salt=salt)
    assert all(before[part] <= after[part] for part in PARTS)


@given(
    counts=st.dictionaries(st.sampled_from("abcde"), st.integers(3, 30), min_size=2),
    test=st.floats(0.001, 0.999),
    dev=st.floats(0.001, 0.999),
    salt=SEEDS,
)
def test_each_class_has_an_image_in_each_part(
    counts: dict[str, int], test: float, dev: float, salt: int
) -> None:
    photos = photos_of(counts)
    found = divided(photos, test, dev, salt=salt)
    assert all({photo.label for photo in found[part]} == set(counts) for part in PARTS)
    assert divided(photos[::-1], test, dev, salt=salt) == found


@pytest.mark.parametrize(("test", "dev"), [(0.15, 0.1), (0.4, 0.05), (0.02, 0.5)])
def test_the_fractions_are_about_those_of_the_settings(test: float, dev: float) -> None:
    found = divided(photos_of({"a": 3000, "b": 1500}), test, dev)
    for label, count in (("a", 3000), ("b", 1500)):
        size = {part: sum(photo.label == label for photo in found[part]) for part in PARTS}
        assert size["test"] / count == pytest.approx(test, abs=0.03)
        assert size["dev"] / count == pytest.approx(dev, abs=0.03)


def test_another_seed_divides_otherwise() -> None:
    photos = photos_of({"a": 50, "b": 50})
    first, second = (divided(photos, seed=seed)["test"] for seed in (1, 2))
    assert first != second


@pytest.mark.parametrize("given_parts", [{"test"}, {"dev"}, {"dev", "test"}, set()])
def test_given_parts_are_used_as_given_and_others_drawn_from_train(given_parts: set[str]) -> None:
    photos = photos_of({"a": 40, "b": 3}, "train")
    for part in given_parts:
        photos += photos_of({"a": 5, "b": 1}, part)
    found = divided(photos)
    for part in PARTS:
        assert found[part], part
        expected = part if part in given_parts else "train"
        assert {photo.part for photo in found[part]} == {expected}


@pytest.mark.parametrize(
    ("photos", "said"),
    [
        (photos_of({}), r"\[\]; expected at least 2"),
        (photos_of({"a": 9}), r"images: \['a'\]; expected at least 2"),
        (photos_of({"a": 9, "b": 2}), "'b': .*2 .* at least 3"),
        (photos_of({"a": 9, "b\n": 9}, "train") + photos_of({"a": 1}, "test"), r"'b\\n': .* test"),
        (photos_of({"a": 9}, "train") + photos_of({"a": 1, "b": 1}, "test"), "'b': .* train"),
        (photos_of({"a": 9, "b": 9}, "test"), "'a': has 0 .* train"),
        (photos_of({"a": 9, "b": 1}, "train") + photos_of({"a": 1, "b": 1}, "dev"), "'b': .*train"),
    ],
)
def test_too_few_of_a_class_are_an_error(photos: list[Photo], said: str) -> None:
    with pytest.raises(PipelineError, match=said) as caught:
        divided(photos)
    assert str(caught.value).isprintable()


@given(
    drawn=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.sampled_from(PARTS)), max_size=20
    ),
    by_part=st.booleans(),
)
def test_of_equal_pixels_one_stays_and_none_beside_one_in_test(
    drawn: list[tuple[int, str, str]], by_part: bool
) -> None:
    photos = [
        Photo(f"{number:02}.jpg", label, part if by_part else "", pixels=bytes([pixels]))
        for number, (pixels, label, part) in enumerate(drawn)
    ]
    left_out = parts.duplicates(photos)
    equal = defaultdict(list)
    for photo in photos:
        equal[photo.pixels].append(photo)
    for same in equal.values():
        stay = [photo for photo in same if photo.name not in left_out]
        if len({photo.label for photo in same}) > 1:
            assert stay == []
            for photo in same:
                named = {other.label for other in same if other.name in left_out[photo.name]}
                assert named == {"a", "b"}
            continue
        of_part = Counter(photo.part for photo in same)
        staying = Counter(photo.part for photo in stay)
        if of_part["test"]:
            assert staying == {"test": of_part["test"]}
        else:
            assert staying == {("dev" if of_part["dev"] else same[0].part): 1}
        assert all(stay[0].name in left_out[photo.name] for photo in set(same) - set(stay))
