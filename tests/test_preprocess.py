"""The training images are divided class by class, and stored as the stage's docstring says."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages import preprocess
from stages.data import archive
from stages.data.dataset import PARTS, DataSet
from stages.errors import PipelineError
from stages.files import digest
from stages.paths import ABOUT, ARCHIVE, IMAGES, LABELS, SKIPPED
from stages.preprocess import stratified_split
from tests import drawn
from tests.conftest import ALL


@given(
    labels=hnp.arrays(np.uint8, st.integers(0, 200), elements=st.integers(0, 3)),
    fraction=st.floats(0.2, 0.8),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_a_partition_in_equal_proportion(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    labels = np.concatenate([labels, np.repeat(np.arange(4, dtype=np.uint8), 5)])
    train, dev = stratified_split(labels, fraction, seed)
    assert sorted([*train, *dev]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(dev) > 0).all()
    for label in range(4):
        assert (labels[dev] == label).sum() == round((labels == label).sum() * fraction)
    assert (stratified_split(labels, fraction, seed)[1] == dev).all()


def test_split_depends_on_the_seed_and_leaves_no_class_empty() -> None:
    labels = np.repeat(np.arange(10, dtype=np.uint8), 20)
    first, second = (stratified_split(labels, 0.1, seed)[1] for seed in (1, 2))
    assert (first != second).any()
    for fraction in (0.01, 0.99):
        with pytest.raises(PipelineError, match=rf"preprocess.dev_fraction = {fraction}: leaves"):
            stratified_split(labels, fraction, 1)


def test_the_stage_writes_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn.write_archive(ARCHIVE, drawn.members(20))
    written = (ABOUT, IMAGES, LABELS, SKIPPED)
    preprocess.main(ALL)
    first = [path.read_bytes() for path in written]
    preprocess.main(ALL)
    assert [path.read_bytes() for path in written] == first
    assert SKIPPED.read_text() == "file,reason\n"

    source = archive.read(ARCHIVE)
    train, dev = stratified_split(source.y_train, 0.1, 1)
    names = np.array(source.names)
    data = DataSet()
    assert data.class_names.tolist() == drawn.CLASS_NAMES
    assert (data.image_shape, data.aspect) == ((32, 32, 3), "crop")
    about = data.about() | {"files": None}
    expected = {"title": "CIFAR-10", "notes": archive.NOTES, "source": digest(ARCHIVE)}
    assert about == expected | {"files": None}
    for part, images, labels, files in (
        ("train", source.x_train[train], source.y_train[train], names[train]),
        ("dev", source.x_train[dev], source.y_train[dev], names[dev]),
        ("test", source.x_test, source.y_test, names[100:]),
    ):
        x, y = data.images(part)[:], data.labels(part)
        assert x.dtype == np.uint8
        assert y.dtype == np.uint16
        np.testing.assert_array_equal(x, images)
        np.testing.assert_array_equal(y, labels)
        np.testing.assert_array_equal(data.files(part), files)
    with np.load(LABELS) as file:
        assert {*file} == {"labels", "class_names", "image_shape", "aspect", *PARTS}
