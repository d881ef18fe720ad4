"""Archives made to do harm: nothing runs or crashes, memory stays bounded, a line says why."""

import functools
import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.transfer import cifar10, pickles, synthetic, tar_members
from stages.transfer.errors import PipelineError
from tests.conftest import PROJECT
from tests.test_cifar10 import pickled, write

MEMORY = 512  # MiB beside what Python and NumPy take; no archive that is CIFAR-10 needs more

# Reads archives one after the other, and tells of each what came of it and the memory so far.
READ_APART = """
import faulthandler, json, pathlib, resource, sys
faulthandler.enable()
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
from stages.transfer import cifar10
from stages.transfer.errors import PipelineError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
start = peak()
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        cifar10.read(path)
        said = "read"
    except PipelineError as error:
        said = str(error)
    print(json.dumps([path.name, said, peak() - start]), flush=True)
"""

NESTED = 1_000_000
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
BYTE = (
    b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


def doubling() -> list:
    """Return a few lists that would take 2**100 steps to show."""
    value: list = []
    for _ in range(100):
        value = [value, value]
    return value


def in_dictionary(value: bytes) -> bytes:
    return b"\x80\x02}U\x04data" + value + b"s."


def array(shape: bytes, dtype: bytes = BYTE, content: bytes = b"U\x02ab") -> bytes:
    return in_dictionary(ARRAY + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb")


ITSELF: list = []
ITSELF.append(ITSELF)
LABELS = {b"data": np.zeros((20, 3072), np.uint8)}
# What stands in place of data_batch_2, and what is said of it.
PICKLES: dict[str, tuple[bytes, str]] = {
    "memo-entry-of-a-high-number": (b"\x80\x02}r\xff\xff\xff\xff.", "data is NoneType"),
    "memo-entry-of-a-high-number-in-text": (b"}p99999999999\n.", "data is NoneType"),
    "key-of-nested-tuples": (b"})" + b"\x85" * NESTED + b"K\x01s.", "damaged (TypeError)"),
    "function-of-nested-tuples": (b")" + b"\x85" * NESTED + b")\x85R.", "damaged (TypeError)"),
    "dtype-of-nested-tuples": (
        array(b"K\x01\x85", b")" + b"\x85" * NESTED),
        "damaged (TypeError)",
    ),
    "nested-lists": (b"]" * (NESTED // 2) + b"a" * (NESTED // 2 - 1) + b".", "holds a list"),
    "lists-by-the-million": (b"]" * 60_000_000 + b".", "more than 1048576 operations"),
    "marks-by-the-million": (b"(" * 60_000_000 + b".", "more than 1048576 operations"),
    "labels-that-double": (pickle.dumps(LABELS | {b"labels": [doubling()] * 20}, 4), "label list"),
    "labels-in-themselves": (pickle.dumps(LABELS | {b"labels": [ITSELF] * 20}, 4), "label list"),
    "a-long-label": (pickle.dumps(LABELS | {b"labels": [1 << 9**7] * 20}, 4), "label int"),
    "an-array-of-a-large-shape": (
        array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
        "data_batch_2: expected a pickle of arrays only: damaged (ValueError)",
    ),
    "an-array-that-is-larger-than-its-bytes": (
        array(b"J\xff\xff\xff\x0fM\x00\x0c\x86"),
        "damaged (ValueError)",
    ),
    "an-array-of-negative-shape": (array(b"J\xff\xff\xff\xffM\x00\x0c\x86"), "of a shape"),
    "an-array-of-many-dimensions": (array(b"(" + b"K\x01" * 65 + b"t"), "of a shape"),
    "an-array-of-long-sizes": (array(b"\x8b\x00\x00\x10\x00" + b"\x7f" * 2**20 + b"\x85"), "shape"),
    "an-array-reconstructed-large": (
        in_dictionary(ARRAY.replace(b"K\x00", b"J\xff\xff\xff\x7f")),
        "data is NoneType",
    ),
    "objects": (array(b"K\x01\x85", BYTE.replace(b"\x02u1", b"\x02O8")), "of the type b'O8'"),
    "an-item-of-two-gigabytes": (
        array(b"K\x01\x85", BYTE.replace(b"\x02u1", b"\x0bV2147483647")),
        "of the type b'V2147483'",
    ),
    "a-dtype-that-is-filled-in-twice": (array(b"K\x02\x85", BYTE + b"}b"), "data is uint8 (2,)"),
    "an-array-that-is-filled-in-twice": (
        array(b"K\x02\x85")[:-2] + b"(K\x01K\x02\x85" + BYTE + b"\x89U\x02abtbs.",
        "damaged (TypeError)",
    ),
    "an-array-without-bytes": (array(b"K\x02\x85", content=b"K\x02"), "damaged (TypeError)"),
    "bytes-of-a-large-size": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "damaged (ValueError)"),
    "a-bytearray-of-a-large-size": (b"\x96" + b"\xff" * 7 + b"\x0f.", "damaged (ValueError)"),
    "a-frame-of-a-large-size": (b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f}.", "data is NoneType"),
    "a-long-of-a-large-size": (b"\x8b\xff\xff\xff\x7f.", "damaged (ValueError)"),
    "a-buffer-from-elsewhere": (b"\x80\x05\x97.", "the operation NEXT_BUFFER"),
    "protocol-5": (pickle.dumps(LABELS, 5), "_frombuffer'"),
    "an-object": (b"\x80\x02cos\nsystem\n)\x81.", "it asks for 'os.system'"),
    "an-instance": (b"(U\x02idios\nsystem\n.", "the operation INST"),
    "something-by-number": (b"\x80\x02\x82\x01.", "the operation EXT1"),
    "something-by-identity": (b"Pone\n.", "the operation PERSID"),
    "a-duplicate": (b"]2.", "the operation DUP"),
    "a-long-name": (b"c" + b"o" * 10**7 + b"\nsystem\n.", "it asks for 'ooo"),
    "a-name-of-a-type": (b"\x80\x04]]\x93.", "damaged (TypeError)"),
    "filling-in-a-dictionary": (b"}}b.", "damaged (TypeError)"),
    "a-call-without-arguments": (b"cnumpy\ndtype\n)R.", "damaged (IndexError)"),
    "more-taken-than-there-is": (b"(\x86.", "damaged (IndexError)"),
    "nothing": (b"", "damaged (ValueError)"),
    "no-end": (b"}", "damaged (ValueError)"),
    "two-values": (b"}}.", "damaged (ValueError)"),
}


def header(name: str, kind: bytes, size: int, link: str = "") -> bytes:
    """Return a tar header; a size that octal digits cannot hold is written as GNU tar does."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf(tarfile.GNU_FORMAT)


def zeros(start: bytes, mebibytes: int) -> bytes:
    """Return a gzip file of a start and then zeros, a thousandth as large as what it unpacks to."""
    return gzip.compress(start) + gzip.compress(bytes(2**20), 1) * mebibytes


def tars() -> Iterator[tuple[str, bytes, str]]:
    """Yield hostile tar files, each with a name and what is said of it."""
    far = 600  # MiB
    whole = plain_tar()
    for name, kind in (("data", b"0"), ("pax", b"x"), ("global-pax", b"g"), ("long-name", b"L")):
        start = header("of no use", kind, far * 2**20)
        yield f"bomb-in-{name}", zeros(start, far), "unpacks to more than 536870912 bytes"
        yield f"nothing-in-{name}", start, "ends early"
    yield "bomb-in-member", zeros(header("test_batch", b"0", far * 2**20), far), "at most 67108864"
    yield "headers-without-end", gzip.compress(header("a", b"5", 0) * 2048) * 20, "ends early"
    yield "negative-size", header("of no use", b"0", -512) + whole, "a member of type b'0'"
    yield "negative-member", header("test_batch", b"0", -512) + whole, "test_batch has -512 bytes"
    yield "negative-pax", header("of no use", b"x", -512) + whole, "a member of type b'x'"
    yield "sparse", header("of no use", b"S", 512) + whole, "a member of type b'S'"
    for name, kind in (
        ("hard-link", b"1"),
        ("link", b"2"),
        ("character-device", b"3"),
        ("block-device", b"4"),
        ("folder", b"5"),
        ("pipe", b"6"),
        ("sparse-member", b"S"),
        ("unknown", b"Z"),
    ):
        start = header("data_batch_1", kind, 0, "/etc/passwd")
        yield name, start + whole, f"data_batch_1 has 0 bytes and type {kind!r}"
    yield "escape-by-link", header("a", b"2", 0, "/tmp") + whole, "read"  # noqa: S108
    again = content()["test_batch"]
    padded = again + bytes(-len(again) % tarfile.BLOCKSIZE)
    yield "twice", header("test_batch", b"0", len(again)) + padded + whole, "is there twice"
    yield "no-tar", b"no tar" * 1000, "not a whole tar"
    yield "empty-gzip", gzip.compress(b""), "ends early"
    yield "damaged-gzip", gzip.compress(whole)[:5000] + bytes(5000), "not a whole tar"
    for name in ("../../data_batch_2", "/data_batch_2", "./a/../data_batch_2"):
        yield name.replace("/", "-slash-").replace(".", "dot-"), renamed(name), "read"


@functools.cache
def content() -> dict[str, bytes]:
    return pickled(synthetic.members(20))


def plain_tar() -> bytes:
    return renamed("data_batch_2")


def renamed(second_batch: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, value in content().items():
            info = tarfile.TarInfo(second_batch if name == "data_batch_2" else name)
            info.size = len(value)
            tar.addfile(info, io.BytesIO(value))
    return out.getvalue()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, int]]:
    """Of each hostile archive: what should be said, what was, MiB that were taken until then."""
    folder = tmp_path_factory.mktemp("hostile") / "archives"
    folder.mkdir()
    expected = {}
    for name, (value, said) in PICKLES.items():
        write(folder / "a.tar", {**content(), "data_batch_2": value})
        with gzip.open(folder / f"{name}.tar.gz", "wb", 1) as zipped:
            zipped.write((folder / "a.tar").read_bytes())
        expected[f"{name}.tar.gz"] = said
    names = pickle.dumps({b"label_names": doubling()}, 4)
    write(folder / "a.tar", {**content(), "batches.meta": names})
    expected["a.tar"] = "expected ten names"
    for name, value, said in tars():
        (folder / f"{name}.tar").write_bytes(value)
        expected[f"{name}.tar"] = said
    before = sorted(folder.parent.rglob("*"))
    ran = subprocess.run(
        [sys.executable, "-c", READ_APART, str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, f"after {lines[-1:]}: {ran.stderr}"
    assert sorted(folder.parent.rglob("*")) == before
    return {name: (expected.pop(name), said, taken) for name, said, taken in lines}


def test_hostile_archives_are_named_in_a_line(outcomes: dict[str, tuple[str, str, int]]) -> None:
    assert len(outcomes) == len(PICKLES) + len(list(tars())) + 1
    other = {name: out for name, out in outcomes.items() if out[0] not in out[1]}
    assert other == {}
    assert all(len(said) < 400 and said.isprintable() for _, said, _ in outcomes.values())


def test_hostile_archives_take_little_memory(outcomes: dict[str, tuple[str, str, int]]) -> None:
    taken = [(mebibytes, name) for name, (_, _, mebibytes) in outcomes.items()]
    assert max(taken)[0] < MEMORY, next(entry for entry in taken if entry[0] >= MEMORY)


def test_skipping_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that nobody wants, and whose header is honest, costs the time to unpack it."""
    archive = tmp_path / "a.tar"
    archive.write_bytes(header("of no use", b"0", 2**20) + bytes(2**20) + plain_tar())
    cifar10.read(archive)
    monkeypatch.setattr(tar_members, "TOTAL_LIMIT", 2**20)
    with pytest.raises(PipelineError, match="unpacks to more than 1048576 bytes"):
        cifar10.read(archive)


def test_arrays_by_columns_and_in_protocols_of_python_3_are_read() -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 256, (7, 3072), np.uint8)
    for array in (rows, np.asfortranarray(rows), rows[:, ::2]):
        for protocol in (3, 4):
            (back,) = pickles.loads(pickle.dumps({b"data": array}, protocol)).values()
            np.testing.assert_array_equal(back, array)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner, inner, inner) | st.dictionaries(st.text(), inner)
    ),
    max_leaves=10,
)


@given(value=PLAIN, protocol=st.integers(0, 4))
def test_plain_values_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    assert pickles.loads(pickle.dumps(value, protocol)) == value


# Properties over altered archives: read, or refused in a line.

Edits = list[tuple[str, float, bytes]]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "truncate", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)
SNIPPETS = [
    *(bytes([code]) for code in range(256)),
    *(b"}", b"]", b"(", b")", b"t", b"a", b"e", b"s", b"u", b"R", b"b", b"."),
    *(b"K\x01", b"M\x00\x0c", b"U\x04data", b"U\x06labels", b"q\x00", b"h\x00", b"\x85", b"\x86"),
    *(ARRAY, BYTE, b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"\x94", b"U\x02u1", b"\x93"),
    *(b"\x89", b"T\x00\x0c\x00\x00" + bytes(3072), b"K\x01M\x00\x0c\x86", b"(K\x01", b"tb"),
]


def edited(whole: bytes, edits: Edits, ends: int) -> bytes:
    """Alter bytes at places of which half are near one of the two ends."""
    for kind, place, new in edits:
        near_an_end, place = place < 0.5, place * 2 % 1
        span = min(2 * ends, len(whole)) if near_an_end else len(whole)
        at = int(place * span)
        if near_an_end and at >= span / 2:
            at += len(whole) - span
        after = {"replace": at + len(new), "delete": at + len(new) ** 2, "truncate": len(whole)}
        rest = whole[after.get(kind, at) :]
        middle = {"repeat": whole[max(0, at - 40) : at], "delete": b"", "truncate": b""}
        whole = whole[:at] + middle.get(kind, new) + rest
    return whole


def refused_or_read(read: Callable[[], object]) -> None:
    try:
        read()
        said = "read"
    except PipelineError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 600


@functools.cache
def small() -> dict[str, bytes]:
    return pickled(synthetic.members(1))


def python_2_pickle() -> bytes:
    return array(b"K\x01M\x00\x0c\x86", content=b"T\x00\x0c\x00\x00" + bytes(3072))


def try_pickles(count: int, folder: Path) -> None:
    @settings(max_examples=count)
    @given(edits=EDITS, which=st.sampled_from(["data_batch_1", "batches.meta", "Python 2"]))
    def check(edits: Edits, which: str) -> None:
        whole = small().get(which) or python_2_pickle()
        name = which if which in small() else "test_batch"
        write(folder / "a.tar", {**small(), name: edited(whole, edits, 150)})
        refused_or_read(lambda: cifar10.read(folder / "a.tar"))

    check()


def try_operations(count: int, _: Path) -> None:
    @settings(max_examples=count)
    @given(parts=st.lists(st.sampled_from(SNIPPETS), max_size=30))
    def check(parts: list[bytes]) -> None:
        refused_or_read(lambda: pickles.loads(b"".join(parts) + b"."))

    check()


def try_tars(count: int, folder: Path) -> None:
    write(folder / "whole.tar", small())
    whole = (folder / "whole.tar").read_bytes()

    @settings(max_examples=count)
    @given(edits=EDITS)
    def check(edits: Edits) -> None:
        (folder / "a.tar").write_bytes(edited(whole, edits, 512))
        refused_or_read(lambda: cifar10.read(folder / "a.tar"))

    check()


def try_gzips(count: int, folder: Path) -> None:
    write(folder / "whole.tar", small())
    whole = gzip.compress((folder / "whole.tar").read_bytes(), 1, mtime=0)

    @settings(max_examples=count)
    @given(edits=EDITS)
    def check(edits: Edits) -> None:
        (folder / "a.tar.gz").write_bytes(edited(whole, edits, 60))
        refused_or_read(lambda: cifar10.read(folder / "a.tar.gz"))

    check()


PROPERTIES = {"pickles": try_pickles, "operations": try_operations, "tars": try_tars}
PROPERTIES["gzips"] = try_gzips


@pytest.mark.parametrize("what", PROPERTIES)
def test_altered_archives_are_read_or_refused(what: str, tmp_path: Path) -> None:
    PROPERTIES[what](100, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("what", PROPERTIES)
def test_altered_archives_by_the_thousand_crash_nothing(what: str, tmp_path: Path) -> None:
    count = 20_000 if what == "operations" else 4_000
    script = (
        "import faulthandler, pathlib, resource, sys; faulthandler.enable();"
        "resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2);"
        "from tests import test_hostile_archive as t;"
        f"t.PROPERTIES[{what!r}]({count}, pathlib.Path(sys.argv[1]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
