"""Downloads, against a real HTTP server that misbehaves, and the search through places."""

import contextlib
import gzip
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.transfer import places
from stages.transfer.errors import PipelineError
from tests.conftest import Project, one_line

GOOD = b"the right bytes" * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the path tells: right, or in one of the ways in which servers go wrong."""

    requests: list[str]
    ended: threading.Event
    raw = b""  # the whole answer to /raw

    def do_GET(self) -> None:
        once = self.path.endswith("-once") and self.path in self.requests
        self.requests.append(self.path)
        kind = "good" if once else self.path[1:].removesuffix("-once")
        with contextlib.suppress(ConnectionError):  # it does not wait for the end
            getattr(self, "answer_" + kind.replace("-", "_"))()

    def answer(self, status: int = 200, body: bytes = GOOD, **headers: object) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def chunks(self, *chunks: bytes) -> None:
        self.protocol_version = "HTTP/1.1"
        self.answer(body=b"", Content_Length=None, Transfer_Encoding="chunked", Connection="close")
        for chunk in chunks:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    def drip(self, content: bytes) -> None:
        for place in range(len(content)):
            self.wfile.write(content[place : place + 1])
            if self.ended.wait(0.2):
                return

    def answer_good(self) -> None:
        self.answer()

    def answer_moved(self) -> None:
        self.answer(302, b"", Location="/good")

    def answer_missing(self) -> None:
        self.answer(404, b"<html>none</html>")

    def answer_other(self) -> None:
        self.answer(body=b"<html>sign in</html>")

    def answer_busy(self) -> None:
        self.answer(503, b"")

    def answer_drops(self) -> None:
        self.answer(body=GOOD[:5000], Content_Length=len(GOOD))

    def answer_hangs_up(self) -> None:
        pass

    def answer_stalls(self) -> None:
        self.answer_drops()
        self.ended.wait()

    def answer_stalls_before_it_answers(self) -> None:
        self.ended.wait()

    def answer_drips(self) -> None:
        self.answer(body=b"", Content_Length=len(GOOD))
        self.drip(GOOD)

    def answer_drips_headers(self) -> None:
        self.drip(b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1000)

    def answer_says_less(self) -> None:
        self.answer(Content_Length=len(GOOD) - 1)

    def answer_says_no_length(self) -> None:
        self.answer(Content_Length=None)

    def answer_drops_without_length(self) -> None:
        self.answer(body=GOOD[:5000], Content_Length=None)

    def answer_says_a_word(self) -> None:
        self.answer(Content_Length="many")

    def answer_says_minus(self) -> None:
        self.answer(Content_Length=-5)

    def answer_chunks(self) -> None:
        self.chunks(GOOD[:7000], GOOD[7000:], b"")

    def answer_chunks_drop(self) -> None:
        self.chunks(GOOD[:7000])

    def answer_loop(self) -> None:
        self.answer(302, b"", Location="/loop")

    def answer_moved_to_a_file(self) -> None:
        self.answer(302, b"", Location=f"file://{__file__}")

    def answer_moved_nowhere(self) -> None:
        self.answer(302, b"", Location="http://[")

    def answer_empty(self) -> None:
        self.answer(body=b"")

    def answer_no_http(self) -> None:
        self.wfile.write(b"\0no HTTP" * 100)

    def answer_headers_without_end(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 10_000)

    def answer_a_long_header(self) -> None:
        self.answer(X="y" * 10**6)

    def answer_without_end(self) -> None:
        self.answer(body=b"", Content_Length=None)
        while not self.ended.is_set():
            self.wfile.write(bytes(2**16))

    def answer_large(self) -> None:
        self.answer(body=b"", Content_Length=10**15)
        while not self.ended.is_set():
            self.wfile.write(bytes(2**16))

    def answer_packed(self) -> None:
        packed = gzip.compress(bytes(2**26))
        self.answer(body=packed, Content_Encoding="gzip")

    def answer_raw(self) -> None:
        self.wfile.write(self.raw)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = Handler
    handler.requests = []
    handler.ended = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", handler.requests
        handler.ended.set()
        httpd.shutdown()


def only_good(path: Path, _found: str, _place: str) -> str | None:
    return None if path.read_bytes() == GOOD else "other bytes"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/good", 1),
        ("/moved", 1),
        ("/busy-once", 2),
        ("/drops-once", 2),
        ("/hangs-up-once", 2),
        ("/says-no-length", 1),
        ("/says-minus", 1),
        ("/chunks", 1),
        ("/chunks-drop-once", 2),
    ],
)
def test_it_is_fetched_or_tried_again(
    tmp_path: Path, server: tuple[str, list[str]], path: str, asked: int
) -> None:
    url, requests = server
    target = tmp_path / "data/file.bin"
    assert places.fetch([url + path], target, only_good) == url + path
    assert target.read_bytes() == GOOD
    assert requests.count(path) == asked
    assert [p.name for p in target.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize(
    ("path", "asked", "said"),
    [
        ("/missing", 1, "HTTP 404"),
        ("/busy", 3, "HTTP 503"),
        ("/drops", 3, "broke off"),
        ("/hangs-up", 3, "broke off"),
        ("/drops-without-length", 1, "other bytes"),
        ("/chunks-drop", 3, "broke off"),
        ("/says-less", 1, "other bytes"),
        ("/says-a-word", 3, "no proper answer"),
        ("/loop", 31, "Exceeded 30 redirects"),
        ("/moved-to-a-file", 3, "No connection adapters"),
        ("/moved-nowhere", 3, "no proper answer: Invalid IPv6 URL"),
        ("/empty", 1, "other bytes"),
        ("/other", 1, "other bytes"),
        ("/no-http", 3, "broke off"),
        ("/headers-without-end", 3, "broke off"),
        ("/a-long-header", 3, "broke off"),
    ],
)
def test_the_next_place_is_tried_with_a_line(
    tmp_path: Path,
    server: tuple[str, list[str]],
    capsys: pytest.CaptureFixture[str],
    path: str,
    asked: int,
    said: str,
) -> None:
    url, requests = server
    target = tmp_path / "file.bin"
    assert places.fetch([url + path, url + "/good"], target, only_good) == url + "/good"
    assert target.read_bytes() == GOOD
    assert requests.count(path) == asked
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if line.startswith(f"{url}{path}: ")]
    assert len(told) == (3 if asked == 3 else 1)  # one for each attempt
    assert all(said in line for line in told)
    with pytest.raises(PipelineError, match=r"MIRROR.*make demo"):
        places.fetch([url + path], target.with_name("never.bin"), only_good)
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds in place of minutes; a good answer of 15 kB takes milliseconds."""
    monkeypatch.setattr(places, "TIMEOUT", (10, 3))
    monkeypatch.setattr(places, "PATIENCE", 4)
    monkeypatch.setattr(places, "SLOWEST", 100)
    monkeypatch.setattr(places, "ATTEMPTS", 2)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "path", ["/stalls", "/stalls-before-it-answers", "/drips", "/drips-headers"]
)
def test_a_slow_server_is_given_up(
    tmp_path: Path, server: tuple[str, list[str]], capsys: pytest.CaptureFixture[str], path: str
) -> None:
    """A byte now and then resets every timeout of a connection."""
    url, requests = server
    target = tmp_path / "file.bin"
    start = time.monotonic()
    assert places.fetch([url + path, url + "/good"], target, only_good) == url + "/good"
    assert time.monotonic() - start < 60
    assert requests.count(path) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if path in line]
    assert len(told) == 2
    assert target.read_bytes() == GOOD
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.usefixtures("hasty")
def test_a_server_that_stalls_once_is_asked_again(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    url, _ = server
    assert places.fetch([url + "/stalls-once"], tmp_path / "f", only_good) == url + "/stalls-once"
    assert (tmp_path / "f").read_bytes() == GOOD


@pytest.mark.parametrize("path", ["/without-end", "/large", "/packed"])
def test_a_download_is_bounded(
    tmp_path: Path,
    server: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
) -> None:
    """Endless bytes, and few that unpack to many."""
    monkeypatch.setattr(places, "SIZE_LIMIT", 2**20)
    url, requests = server
    assert places.fetch([url + path, url + "/good"], tmp_path / "f", only_good) == url + "/good"
    assert requests.count(path) == 1
    assert f"{url}{path}: sends more than 0.000977 GiB" in capsys.readouterr().out


HEADERS = [
    *(b"Content-Length: %d" % length for length in (0, 1, 5000, len(GOOD), len(GOOD) + 9, 10**30)),
    *(b"Content-Length: many", b"Content-Length: -1", b"Transfer-Encoding: chunked"),
    *(b"Content-Encoding: gzip", b"Content-Encoding: deflate", b"Connection: close"),
    *(b"Location: " + to for to in (b"/good", b"/raw", b"http://[", b"ftp://a/b", b"\xff", b"")),
    *(b"", b":", b"X", b"\xff\xfe: \0", b"X: " + b"y" * 70_000),
]
STATUSES = [b"HTTP/1.1 %d Any" % n for n in (100, 200, 204, 206, 301, 302, 304, 404, 500, 503, 999)]
BODIES = [
    *(GOOD, GOOD[:5000], GOOD + b"more", b"", b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)),
    *(b"%x\r\n%s\r\n" % (len(GOOD) + 9, GOOD), b"-5\r\n", b"zz\r\n", gzip.compress(GOOD)),
    *(gzip.compress(GOOD)[:50], gzip.compress(bytes(2**20)), b"<html>sign in</html>"),
]
ANSWERS = st.binary(max_size=50) | st.tuples(
    st.sampled_from(STATUSES) | st.binary(max_size=20),
    st.lists(st.sampled_from(HEADERS), max_size=4),
    st.sampled_from(BODIES) | st.binary(max_size=50),
).map(lambda parts: b"\r\n".join([parts[0], *parts[1], b"", parts[2]]))


def whatever_a_server_answers(count: int, url: str, folder: Path) -> None:
    @settings(max_examples=count)
    @given(answer=ANSWERS)
    def check(answer: bytes) -> None:
        Handler.raw = answer
        target = folder / "file.bin"
        target.unlink(missing_ok=True)
        try:
            places.fetch([url + "/raw"], target, only_good)
        except PipelineError as error:
            assert "MIRROR" in str(error)  # noqa: PT017 - either outcome is right
            assert list(folder.iterdir()) == []
        else:
            assert target.read_bytes() == GOOD

    check()


@pytest.mark.usefixtures("hasty")
def test_whatever_a_server_answers_a_finished_file_is_the_right_one(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    whatever_a_server_answers(100, server[0], tmp_path)


@pytest.mark.faults
@pytest.mark.usefixtures("hasty")
def test_whatever_a_server_answers_by_the_thousand(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    whatever_a_server_answers(2_000, server[0], tmp_path)


def test_an_unreachable_host_is_passed_over(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    url, _ = server
    nobody = "http://127.0.0.1:9/file.bin"
    assert places.fetch([nobody, url + "/good"], tmp_path / "f", only_good) == url + "/good"


def test_a_file_on_disk_with_other_bytes_stops_the_search(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    (tmp_path / "mirror").write_bytes(b"other")
    with pytest.raises(PipelineError, match="mirror: other bytes"):
        places.fetch([str(tmp_path / "mirror"), server[0] + "/good"], tmp_path / "f", only_good)
    assert not (tmp_path / "f").exists()


def test_mirror_comes_before_the_shared_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR", "http://lab.example/files/")
    assert list(places.mirror_places(["a", "b"])) == [
        "http://lab.example/files/a",
        "http://lab.example/files/b",
        "../shared/mirror/a",
        "../shared/mirror/b",
    ]
    monkeypatch.delenv("MIRROR")
    assert list(places.mirror_places(["a"])) == ["../shared/mirror/a"]


def test_in_an_experiments_copy_folders_are_relative_to_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "project/.dvc/tmp/exps/standalone/tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MIRROR", raising=False)
    (place,) = places.mirror_places(["a"])
    assert Path(place).resolve() == tmp_path.resolve() / "shared/mirror/a"

    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("MIRROR", "../mine")  # as the person in the project's folder means it
    place = next(places.mirror_places(["a"]))
    assert Path(place).resolve() == tmp_path.resolve() / "mine/a"


@pytest.mark.parametrize("mirror", ["/nowhere", "ftp://host/files", "http:/", __file__])
def test_a_mirror_that_is_none_is_named(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR", mirror)
    with pytest.raises(PipelineError, match="expected a folder, or a URL"):
        list(places.mirror_places(["a"]))


def test_a_target_that_cannot_be_written_is_not_the_places_fault(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    (tmp_path / "data").write_text("a file where the folder belongs")
    with pytest.raises(OSError, match="data"):
        places.fetch([server[0] + "/good"], tmp_path / "data/file", only_good)


def test_the_shared_folder_beside_the_project_is_found(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/mirror").symlink_to(fresh.mirror)
    result = project.stage("download", MIRROR="")
    assert result.returncode == 0
    assert "../shared/mirror/cifar-10-python.tar.gz, sha256 " in result.stdout


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"x" + b[1:]])
def test_an_archive_with_another_digest_is_refused(
    fresh: Project, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    project = fresh.copy(tmp_path)
    whole = (fresh.mirror / "cifar-10-python.tar.gz").read_bytes()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "cifar-10-python.tar.gz").write_bytes(damage(whole))
    said = one_line(project.stage("download", MIRROR=str(mirror)))
    assert "expected one of download.sha256 in params.yaml" in said
    assert list((project.folder / "data/raw").iterdir()) == []


def test_nothing_reachable_names_mirror_and_demo(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path)
    offline = {
        "MIRROR": "",
        "https_proxy": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    for stage in ("download", "backbone"):
        project.set(backbone={"weights": "imagenet"})
        said = one_line(project.stage(stage, **offline))
        assert "MIRROR" in said
        assert "make demo" in said
    result = project.dvc("repro", **offline)
    assert result.returncode != 0
    assert not list((project.folder / "data").rglob("*.*"))[1:]
