"""The data set on disk: read row by row, damage in one line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.data.dataset import PARTS, DataSet, Rows
from stages.errors import PipelineError
from stages.paths import ABOUT, IMAGES, LABELS
from tests.drawn import write_data_set

ROWS = 12
PIXELS = np.random.default_rng(1).integers(0, 256, (ROWS, 3, 5, 3), np.uint8)
INDEX = {"train": [0, 2, 3, 8, 10], "dev": [1, 9], "test": [4, 5, 7]}  # not 6 and 11


@pytest.fixture(autouse=True)
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [f"\udcff {row}" for row in range(ROWS)]
    named = {"class_names": ["a", "b", "\u00e7"], "aspect": "pad"}
    write_data_set(PIXELS, np.arange(ROWS) % 3, files, **INDEX, **named)


@given(
    index=st.lists(st.integers(0, ROWS - 1), max_size=20),
    part=st.slices(20) | st.lists(st.integers(0, 19), max_size=9),
)
def test_rows_are_those_of_the_index(index: list[int], part: slice | list[int]) -> None:
    rows = Rows(PIXELS, np.array(index, np.int64))
    assert rows.shape == (len(index), *PIXELS.shape[1:])
    assert len(rows) == len(index)
    if isinstance(part, list):
        part = [position for position in part if position < len(index)]
        expected, chosen = PIXELS[[index[k] for k in part]], np.array(part, np.int64)
        np.testing.assert_array_equal(rows[chosen], expected)
    else:
        np.testing.assert_array_equal(rows[part], PIXELS[index[part]])


@pytest.mark.parametrize("parts", [("train",), ("dev", "test"), ("test", "train"), PARTS])
def test_parts_follow_one_another_as_asked(parts: tuple[str, ...]) -> None:
    data = DataSet()
    rows = [row for part in parts for row in INDEX[part]]
    np.testing.assert_array_equal(data.images(*parts)[:], PIXELS[rows])
    assert data.labels(*parts).tolist() == [row % 3 for row in rows]
    assert data.files(*parts).tolist() == [f"\udcff {row}" for row in rows]
    assert data.class_names.tolist() == ["a", "b", "\u00e7"]
    assert data.image_shape == (3, 5, 3)
    assert data.aspect == "pad"


def read_all() -> None:
    data = DataSet()
    for part in PARTS:
        assert len(data.labels(part)) == len(data.files(part)) == len(data.images(part)[:])


@pytest.mark.parametrize("path", [ABOUT, IMAGES, LABELS], ids=["about", "images", "labels"])
@pytest.mark.parametrize("kept", [0, 1, 100, 200, -1])
def test_a_file_that_was_cut_off_is_one_line(path: Path, kept: int) -> None:
    read_all()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(PipelineError, match=rf"{path}: damaged \(.*\); run `dvc repro`") as caught:
        read_all()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("place", np.linspace(0, 0.99, 12))
def test_labels_with_other_bytes_are_one_line_or_read(place: float) -> None:
    content = bytearray(LABELS.read_bytes())
    start = int(place * len(content))
    content[start : start + 9] = b"\xff" * 9
    LABELS.write_bytes(content)
    try:
        read_all()
    except PipelineError as error:
        assert str(error).startswith(f"{LABELS}: damaged (")  # noqa: PT017 - it need not raise


@pytest.mark.parametrize("path", [ABOUT, IMAGES, LABELS], ids=["about", "images", "labels"])
def test_a_missing_file_is_named(path: Path) -> None:
    path.unlink()
    with pytest.raises(FileNotFoundError, match=str(path)):
        read_all()
