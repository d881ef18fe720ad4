"""The archive: read however it is packed; what is wrong with it is one line; nothing in it runs."""

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import pickle
import pickletools
import resource
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data import archive
from stages.errors import PipelineError
from tests import drawn

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@functools.cache
def files(protocol: int = 4) -> dict[str, bytes]:
    return pickled(drawn.members(2), protocol)


def pickled(content: dict[str, Any], protocol: int = 4) -> dict[str, bytes]:
    return {name: pickle.dumps(value, protocol) for name, value in content.items()}


def packed(content: dict[str, bytes], folder: str = "folder", form: str = "pax") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=FORMATS[form]) as tar:
        for name, value in content.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
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
    # Batches in order; channel after channel in the file, last in memory.
    assert data.y_train[20:40].tolist() == content["data_batch_2"][b"labels"]
    third = content["data_batch_1"][b"data"][3].reshape(3, 32, 32)
    assert (data.x_train[3, 5, 7] == third[:, 5, 7]).all()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("protocol", range(6))
def test_the_same_content_packed_anew_is_read(path: Path, protocol: int, form: str) -> None:
    content: dict[str, Any] = drawn.members(2)
    drawn.write_archive(path, content)
    expected = archive.read(path)
    folder = "/".join(["folder" * 12] * 2 if form == "ustar" else ["folder" * 20] * 3)
    path.write_bytes(packed(pickled(content, protocol), folder, form))
    assert_equal(archive.read(path), expected)

    # By somebody who works in Python 3: text, arrays by column and with gaps, NumPy's integers.
    for compress, labels in (
        (gzip.compress, np.array),
        (bz2.compress, lambda values: np.array(values, ">i2")),
        (lzma.compress, lambda values: [np.int64(value) for value in values]),
    ):
        altered = {name: {k.decode(): v for k, v in c.items()} for name, c in content.items()}
        altered["batches.meta"]["label_names"] = drawn.CLASS_NAMES
        first, test = altered["data_batch_1"], altered["test_batch"]
        first["data"] = np.repeat(first["data"], 2, axis=1)[:, ::2]
        test["data"], test["labels"] = np.asfortranarray(test["data"]), labels(test["labels"])
        path.write_bytes(compress(packed(pickled(altered, protocol), folder, form)))
        assert_equal(archive.read(path), expected)


def assert_equal(data: archive.Cifar10, expected: archive.Cifar10) -> None:
    for array, other in zip(data, expected, strict=True):
        np.testing.assert_array_equal(array, other)


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


def replace(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content.clear()
        content.update(dict.fromkeys(names))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("data_batch_3"), "lacks data_batch_3; expected all of cifar-10-python"),
        (lambda c: c.update(test_batch=[1]), "test_batch: expected a file of CIFAR-10: 'list'"),
        (batch(labels=[0, 10]), "data_batch_3: expected a file of CIFAR-10: label 10, not an int"),
        (batch(labels=[0, -1]), "label -1"),
        (batch(labels=[0, True]), "label True"),
        (batch(labels=[0, [[]]]), "label list"),
        (batch(labels=np.array([0, 0.5])), "label 0.0"),
        (batch(labels=[0]), "data_batch_3: expected a file of CIFAR-10: 1 labels for 2 images"),
        (batch(labels=None), "NoneType for 2 images"),
        (batch(data=np.zeros((2, 1024), "uint8")), "data is uint8 (2, 1024), not uint8 (n, 3072)"),
        (batch(data=np.zeros((2, 3072), "float32")), "data is float32 (2, 3072), not uint8"),
        (batch(data=np.zeros((2, 3072), object)), "an array of type 'O8', not of numbers"),
        (batch(data=[[0] * 3072] * 2), "data is list"),
        (
            edit("batches.meta", label_names=[b"cat"]),
            "batches.meta: expected a file of CIFAR-10: l",
        ),
        (edit("batches.meta", label_names=[b"cat"] * 10), "label_names"),
        (edit("batches.meta", label_names=[*range(10)]), "label_names"),
        (replace("meta", "test", "train"), "is CIFAR-100; expected all of cifar-10-python.tar.gz"),
        (replace("data_batch_1.bin", "test_batch.bin"), "is CIFAR-10's binary version; expected"),
        (replace("data_batch_1.mat", "test_batch.mat"), "is CIFAR-10's Matlab version; expected"),
        (replace("readme.html"), "lacks data_batch_1, data_batch_2"),
    ],
)
def test_what_is_not_cifar10s_is_named(path: Path, change: Any, said: str) -> None:
    change(content := drawn.members(2))
    assert said in fault(path, packed(pickled(content)))


def test_what_is_no_whole_archive_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = packed(files())
    zipped = gzip.compress(whole)
    for cut in (zipped[:0], zipped[:9], whole[:100], b"no tar" * 999):
        assert "damaged" in fault(path, cut)
    for cut in (zipped[: len(zipped) // 2], whole[: len(whole) // 2]):
        assert "data_batch_" in fault(path, cut)
    again = whole[: whole.index(b"folder/test_batch")] + whole
    assert "batches.meta: expected a file of CIFAR-10: it is there twice" in fault(path, again)
    link = tarfile.TarInfo("test_batch")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert "test_batch: expected a file of CIFAR-10: it is no plain" in fault(path, link.tobuf())
    quoting = packed({"test_batch": b"F\x1b[31m\n."})  # a number that is a terminal's command
    assert "could not convert string to float" in fault(path, quoting)
    # A header alone: the content that it announces is not waited for.
    for name in ("data_batch_1", "something"):
        bomb = tarfile.TarInfo(name)
        bomb.size = 600 * 2**20
        assert "more than 1,000 files or 536,870,912 bytes" in fault(path, bomb.tobuf())
    monkeypatch.setattr(archive, "MEMBERS_LIMIT", 6)
    assert "more than 6 files" in fault(path, whole)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="cifar-10-python"):
        archive.read(path)


# Archives made to do harm, each read in a process of its own that has little memory and time, and
# in which an audit hook of Python's is told whatever the reader does besides opening the archive.

ENDS = ["read", "refused", "refused at length", "raises", "reaches beyond"]
MODULES = ["os", "posix", "subprocess", "builtins", "__builtin__", "importlib", "numpy", "_codecs"]
MODULES += ["numpy.core.multiarray", "numpy._core.numeric", "numpy.core.os", "stages.data.archive"]
NAMES = ["system", "getoutput", "exec", "eval", "open", "import_module", "fromfile", "decode"]
NAMES += ["ndarray", "dtype", "ndarray.tofile", "_reconstruct", "_frombuffer", "scalar", "encode"]
CALLS = [
    "c{0}\n{1}\n(Vtouch canary\ntR",
    "c{0}\n{1}\n(Vtouch canary\nt\x81",
    "V{0}\nV{1}\n\x93(Vtouch canary\ntR",
    "(Vtouch canary\ni{0}\n{1}\n",
    "(c{0}\n{1}\nVtouch canary\no",
    "c{0}\n{1}\n(N}}Vdtype\nVO8\nstb",
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "repeat", "truncate"]),
        st.floats(-1, 1),
        st.binary(min_size=1, max_size=8),
    ),
    max_size=4,
)


def edited(whole: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """Alter bytes, mostly near the two ends: in the middle there are only images."""
    for kind, place, new in edits:
        at = int(place**3 * len(whole)) % (len(whole) + 1)
        end = {"replace": at + len(new), "delete": at + len(new) ** 2, "truncate": len(whole)}
        middle = {"repeat": whole[max(0, at - 40) : at], "delete": b"", "truncate": b""}
        whole = whole[:at] + middle.get(kind, new) + whole[end.get(kind, at) :]
    return whole


@st.composite
def harmful(draw: st.DrawFn) -> bytes:
    content = dict(files(draw(st.integers(0, 5))))
    name = draw(st.sampled_from([archive.META, "data_batch_1"]))
    place = draw(st.sampled_from(["call", "pickle", "tar", "gzip"]))
    if place == "call":
        starts = [start for _, _, start in pickletools.genops(content[name])]
        at = draw(st.sampled_from(starts[1:]))
        form, module, function = (draw(st.sampled_from(x)) for x in (CALLS, MODULES, NAMES))
        call = form.format(module, function).encode("latin-1") + b"0"
        content[name] = content[name][:at] + call + content[name][at:]
    if place in ("call", "pickle"):
        content[name] = edited(content[name], draw(EDITS))
    whole = packed(content, form=draw(st.sampled_from(sorted(FORMATS))))
    if place == "tar":
        whole = edited(whole, draw(EDITS))
    return edited(gzip.compress(whole, 1), draw(EDITS)) if place == "gzip" else whole


def outcome(path: Path, read: Callable[[Path], object]) -> str:
    """Return what came of reading an archive in a child process."""
    if (child := os.fork()) == 0:

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            opens_it = event == "open" and str(arguments[0]) == str(path)
            if not opens_it or arguments[2] & os.O_ACCMODE != os.O_RDONLY:
                os.write(2, f"{event} {arguments!r:.200}\n".encode())
                os._exit(ENDS.index("reaches beyond"))

        resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (10,) * 2)
        sys.addaudithook(watch)
        end = "read"
        try:
            read(path)
        except PipelineError as error:
            is_line = str(error).isprintable() and len(str(error)) < 600
            end = "refused" if is_line else "refused at length"
        except BaseException as error:
            os.write(2, f"{error!r:.200}\n".encode())
            end = "raises"
        os._exit(ENDS.index(end))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return ENDS[status] if status >= 0 else signal.Signals(-status).name


def unsafe(path: Path) -> object:
    with tarfile.open(path) as tar:
        return pickle.load(tar.extractfile("folder/data_batch_1"))  # type: ignore[arg-type]


def try_archives(count: int, path: Path) -> None:
    path.write_bytes(packed({"data_batch_1": b"cos\nsystem\n(Vtouch canary\ntR."}))
    outcomes = Counter([f"unsafe {outcome(path, unsafe)}"])

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(harmful())
    def check(content: bytes) -> None:
        path.write_bytes(content)
        outcomes[outcome(path, archive.read)] += 1

    check()
    print(json.dumps(outcomes))


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.faults)])
def test_nothing_in_a_harmful_archive_runs(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.tar"
    script = f"from tests.test_archive import *; try_archives({count}, Path({str(path)!r}))"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(drawn.PROJECT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    outcomes = json.loads(ran.stdout)
    assert outcomes.pop("unsafe reaches beyond") == 1  # so that it is seen if something runs
    assert outcomes.keys() <= {"read", "refused", "SIGKILL"}, ran.stderr  # killed: out of time
    assert sum(outcomes.values()) == count
    assert outcomes["refused"] > count / 2
    assert {*os.listdir(tmp_path)} <= {path.name, ".hypothesis"}
