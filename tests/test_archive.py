"""The archive: what is wrong with it is one line, and nothing in it runs."""

import functools
import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.data import archive
from stages.errors import PipelineError
from tests import drawn


@functools.cache
def files() -> dict[str, bytes]:
    return pickled(drawn.members(2))


def pickled(content: dict[str, Any]) -> dict[str, bytes]:
    return {name: pickle.dumps(value, protocol=4) for name, value in content.items()}


def packed(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, value in content.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    return file.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cifar-10-python.tar.gz"


def fault(path: Path, content: bytes) -> str:
    """Return the line that an archive is refused with."""
    path.write_bytes(content)
    with pytest.raises(PipelineError) as error:
        archive.read(path)
    line = str(error.value)
    assert line.isprintable()
    assert str(path) in line
    return line


def test_images_labels_and_names_come_back(path: Path) -> None:
    content: dict[str, Any] = drawn.members(20)
    drawn.write_archive(path, content)
    data = archive.read(path)
    assert data.x_train.shape == (100, 32, 32, 3)
    assert data.x_test.dtype == data.y_train.dtype == np.uint8
    assert data.class_names == drawn.CLASS_NAMES
    assert (data.names[23], data.names[100]) == ("data_batch_2/3", "test_batch/0")
    assert len(set(data.names)) == 120
    # Batches in order; channel after channel in the file, last in memory.
    assert data.y_train[20:40].tolist() == content["data_batch_2"][b"labels"]
    third = content["data_batch_1"][b"data"][3].reshape(3, 32, 32)
    assert (data.x_train[3, 5, 7] == third[:, 5, 7]).all()


def test_python_2_is_read(path: Path) -> None:
    """The official batches are of protocol 2, written by Python 2 and an early NumPy."""
    data = bytes(range(256)) * 12
    raw = b"".join(
        [
            b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n",
            b"K\x00\x85U\x01b\x87R(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00",
            data + b"tbU\x06labels]K\x09au.",
        ]
    )
    path.write_bytes(packed({**files(), "test_batch": raw}))
    images = archive.read(path).x_test
    assert images.transpose(0, 3, 1, 2).tobytes() == data


def edit(name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[name].update({k.encode(): v for k, v in values.items()})


batch = functools.partial(edit, "data_batch_3")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("data_batch_3"), "lacks data_batch_3; expected all of cifar-10-python"),
        (lambda c: c.update(test_batch=[1]), "test_batch: expected a file of CIFAR-10: 'list'"),
        (batch(labels=[0, 10]), "data_batch_3: expected a file of CIFAR-10: label 10, not an int"),
        (batch(labels=[0, -1]), "label -1"),
        (batch(labels=[0, True]), "label True"),
        (batch(labels=[0, [[]]]), "label list"),
        (batch(labels=[0, 0.5]), "label 0.5"),
        (batch(labels=[0]), "data_batch_3: expected a file of CIFAR-10: 1 labels for 2 images"),
        (batch(labels=None), "NoneType for 2 images"),
        (batch(data=np.zeros((2, 1024), "uint8")), "data is uint8 (2, 1024), not uint8 (n, 3072)"),
        (batch(data=np.zeros((2, 3072), "float32")), "data is float32 (2, 3072), not uint8"),
        (batch(data=np.zeros((2, 3072), object)), "data is object (2, 3072), not uint8"),
        (batch(data=[[0] * 3072] * 2), "data is list"),
        (edit("batches.meta", label_names=[b"cat"]), "meta: expected a file of CIFAR-10: label_"),
        (edit("batches.meta", label_names=[b"cat"] * 10), "label_names"),
        (edit("batches.meta", label_names=[*range(10)]), "label_names"),
        (lambda c: c.clear(), "lacks data_batch_1, data_batch_2"),
    ],
)
def test_what_is_not_cifar10s_is_named(path: Path, change: Any, said: str) -> None:
    change(content := drawn.members(2))
    assert said in fault(path, packed(pickled(content)))


def test_what_is_no_whole_archive_is_named(path: Path) -> None:
    whole = packed(files())
    zipped = gzip.compress(whole)
    wanted = "; expected a tar file, compressed at most once: all of cifar-10-python.tar.gz, with"
    for cut in (zipped[:0], whole[:100], b"no tar" * 999):
        assert f": an unknown format{wanted}" in fault(path, cut)
    for cut in (zipped[: len(zipped) // 2], whole[: len(whole) // 2]):
        assert "data_batch_" in fault(path, cut)
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("test_batch", files()["test_batch"])
    assert f": a zip file{wanted}" in fault(path, path.read_bytes())
    assert f": a gzip file without a tar{wanted}" in fault(path, gzip.compress(zipped))
    assert "damaged" in fault(path, zipped[:9])
    link = tarfile.TarInfo("test_batch")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert "test_batch: expected a file of CIFAR-10: not a regular" in fault(path, link.tobuf())
    quoting = packed({"test_batch": b"F\x1b[31m\n."})  # a number that is a terminal's command
    assert "could not convert string to float" in fault(path, quoting)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="cifar-10-python"):
        archive.read(path)


# Three opcodes that import.
CALLS = ["c{}\n{}\n(Vx\ntR.", "V{}\nV{}\n\x93(Vx\ntR.", "(Vx\ni{}\n{}\n."]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("numpy", "ndarray.tofile"), ("numpy", "fromfile")],
)
def test_a_pickle_may_call_nothing(path: Path, call: str, module: str, name: str) -> None:
    content = files() | {"data_batch_1": call.format(module, name).encode("latin-1")}
    assert f"references '{module}.{name}'" in fault(path, packed(content))
