"""The archive is read without trusting it."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages.transfer import cifar10, synthetic
from stages.transfer.errors import PipelineError


@pytest.fixture
def content() -> dict[str, dict[bytes, Any]]:
    return synthetic.members(20)


def test_images_labels_and_names_come_back(tmp_path: Path, content: dict) -> None:
    synthetic.write_archive(tmp_path / "a.tar.gz", content)
    data = cifar10.read(tmp_path / "a.tar.gz")
    assert data.x_train.shape == (100, 32, 32, 3)
    assert data.x_test.dtype == np.uint8
    assert data.class_names == synthetic.CLASS_NAMES
    # Batches in order, channel after channel in the file, last in memory.
    assert data.y_train[20:40].tolist() == content["data_batch_2"][b"labels"]
    third = content["data_batch_1"][b"data"][3]
    assert (data.x_train[3, 5, 7] == third.reshape(3, 32, 32)[:, 5, 7]).all()


def test_python_2_pickles_are_read(tmp_path: Path, content: dict) -> None:
    """The official batches are protocol 2, written by Python 2's NumPy."""
    data = content["test_batch"][b"data"]
    raw = b"".join(
        [
            b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n",
            b"K\x00\x85U\x01b\x87R(K\x01K",
            bytes([len(data)]),
            b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff",
            b"J\xff\xff\xff\xffK\x00tb\x89T",
            len(data.tobytes()).to_bytes(4, "little"),
            data.tobytes(),
            b"tbU\x06labels](K\x00",
            b"K\x01" * (len(data) - 1),
            b"eu.",
        ]
    )
    write(tmp_path / "a.tar", {**pickled(content), "test_batch": raw})
    assert (
        cifar10.read(tmp_path / "a.tar").x_test.transpose(0, 3, 1, 2).reshape(-1, 3072) == data
    ).all()


def pickled(content: dict) -> dict[str, bytes]:
    return {name: pickle.dumps(batch, 4) for name, batch in content.items()}


def write(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(value)
            tar.addfile(info, io.BytesIO(value))


def edit(key: bytes, value: Any) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        content["data_batch_3"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("data_batch_3"), "lacks data_batch_3"),
        (lambda c: c.pop("batches.meta"), "lacks batches.meta"),
        (edit(b"labels", [0] * 19 + [10]), "data_batch_3: label 10, expected an integer from 0"),
        (edit(b"labels", [0] * 19 + [True]), "label True"),
        (edit(b"labels", [0] * 19), "19 labels for 20 images"),
        (edit(b"labels", None), "NoneType for 20 images"),
        (edit(b"data", np.zeros((20, 1024), "uint8")), "data is uint8 (20, 1024), expected"),
        (
            edit(b"data", np.zeros((20, 3072), "float32")),
            "an array of the type 'f4', expected uint8",
        ),
        (edit(b"data", [[0] * 3072] * 20), "data is list"),
        (lambda c: c["batches.meta"].update({b"label_names": [b"cat"]}), "expected ten names"),
    ],
)
def test_what_is_no_cifar10_is_named(tmp_path: Path, content: dict, change: Any, said: str) -> None:
    change(content)
    synthetic.write_archive(tmp_path / "a.tar.gz", content)
    with pytest.raises(PipelineError) as error:
        cifar10.read(tmp_path / "a.tar.gz")
    assert said in str(error.value)


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    "value", [{b"data": Evil()}, np.array([Evil()], object), [Evil], np.ones(3), b"\x80"]
)
def test_a_pickle_cannot_call_anything(
    tmp_path: Path, content: dict, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = value if isinstance(value, bytes) else pickle.dumps(value, 4)
    write(tmp_path / "a.tar", {**pickled(content), "data_batch_2": raw})
    with pytest.raises(PipelineError, match="data_batch_2"):
        cifar10.read(tmp_path / "a.tar")
    assert not (tmp_path / "pwned").exists()


def test_truncated_doubled_and_linked_members_are_refused(tmp_path: Path, content: dict) -> None:
    synthetic.write_archive(tmp_path / "whole.tar.gz", content)
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    for cut in (0, 100, len(whole) // 2):
        (tmp_path / "cut.tar.gz").write_bytes(whole[:cut])
        with pytest.raises(PipelineError, match="not a whole tar") as error:
            cifar10.read(tmp_path / "cut.tar.gz")
        assert "\n" not in str(error.value)

    write(tmp_path / "twice.tar", pickled(content))
    with tarfile.open(tmp_path / "twice.tar", "a") as tar:
        tar.add(__file__, "elsewhere/test_batch")
    with pytest.raises(PipelineError, match="test_batch is there twice"):
        cifar10.read(tmp_path / "twice.tar")

    write(tmp_path / "linked.tar", {k: v for k, v in pickled(content).items() if k != "test_batch"})
    with tarfile.open(tmp_path / "linked.tar", "a") as tar:
        info = tarfile.TarInfo("test_batch")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(PipelineError, match="expected a plain file"):
        cifar10.read(tmp_path / "linked.tar")


@given(
    labels=hnp.arrays(np.uint8, st.integers(40, 200), elements=st.integers(0, 3)),
    fraction=st.floats(0.2, 0.8),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_a_partition_in_equal_proportion(
    labels: np.ndarray, fraction: float, seed: int
) -> None:
    labels = np.concatenate([labels, np.repeat(np.arange(4, dtype=np.uint8), 5)])
    train, dev = cifar10.stratified_split(labels, fraction, seed)
    assert sorted([*train, *dev]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    for label in range(4):
        assert (labels[dev] == label).sum() == round((labels == label).sum() * fraction)
    again = cifar10.stratified_split(labels, fraction, seed)
    assert (again[1] == dev).all()


def test_split_depends_on_the_seed_and_leaves_no_class_empty() -> None:
    labels = np.repeat(np.arange(10, dtype=np.uint8), 20)
    first, second = (cifar10.stratified_split(labels, 0.1, seed)[1] for seed in (1, 2))
    assert (first != second).any()
    with pytest.raises(PipelineError, match=r"preprocess.dev_fraction = 0.01"):
        cifar10.stratified_split(labels, 0.01, 1)
