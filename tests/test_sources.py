"""Downloads from a real HTTP server that misbehaves, and the search through the places."""

import contextlib
import errno
import hashlib
import http.server
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dvc.repo.experiments.utils import EXEC_TMP_DIR

from stages import download
from stages.data import sources
from stages.errors import PipelineError
from stages.paths import ARCHIVE, DOWNLOADS
from tests.conftest import Project

GOOD = np.random.default_rng(0).bytes(3 * sources.CHUNK)
OTHER = GOOD[::-1]
PART = sources.CHUNK  # bytes; a break within a chunk loses what had come of it
Answer = Callable[["Handler"], None]
MonkeyPatch = pytest.MonkeyPatch


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives the answers of a test, the last one again and again; to /official the right one."""

    answers: list[Answer]
    asked: list[int]  # where the ranges start
    ended: threading.Event

    def do_GET(self) -> None:
        assert self.headers["Accept-Encoding"] == "identity"
        send: Answer = right
        if self.path != "/official":
            self.asked.append(start(self))
            send = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        with contextlib.suppress(ConnectionError):  # whoever asked may not wait for the end
            send(self)

    def log_message(self, *_: object) -> None:
        pass


def start(handler: Handler) -> int:
    return int((handler.headers["Range"] or "bytes=0-")[len("bytes=") : -1])


def answer(status: int = 200, body: bytes = GOOD, **headers: object) -> Answer:
    def send(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)

    return send


def rest(begin: int, body: bytes = GOOD) -> Answer:
    return answer(206, body[begin:], Content_Range=f"bytes {begin}-{len(body) - 1}/{len(body)}")


def right(handler: Handler) -> None:
    (rest(start(handler)) if start(handler) else answer())(handler)


def right_with_password(handler: Handler) -> None:
    known = handler.headers["Authorization"] == "Basic bWU6c2VjcmV0"  # me:secret
    (right if known else answer(401))(handler)


def stop(handler: Handler) -> None:
    answer(body=GOOD[:PART], Content_Length=len(GOOD))(handler)


def stall(handler: Handler) -> None:
    stop(handler)
    handler.ended.wait()


def never_end(handler: Handler) -> None:
    answer(Content_Length=10**15)(handler)
    while not handler.ended.is_set():
        handler.wfile.write(GOOD)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: MonkeyPatch) -> Iterator[str]:
    (tmp_path / "project/data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(sources, "TIMEOUT", (10, 0.5))
    monkeypatch.setattr(sources, "SIZE_LIMIT", 2**20)
    monkeypatch.setattr("time.sleep", lambda _: None)
    Handler.answers, Handler.asked, Handler.ended = [right], [], threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        Handler.ended.set()
        running.shutdown()


def only_good(_path: Path, found: str, place: str) -> str | None:
    right = found == hashlib.sha256(GOOD).hexdigest()
    return None if right else f"other bytes from {place}"


def fetch(url: str) -> str:
    place = sources.fetch(["file"], url, Path("data/file"), only_good)
    assert Path("data/file").read_bytes() == GOOD
    assert [path for path in Path("data").rglob("*") if path.is_file()] == [Path("data/file")]
    return place


@pytest.mark.parametrize(
    ("kept", "answers", "starts", "refusal"),
    [
        (b"", [right], [0], ""),
        (b"", [answer(302, Location="/official")], [0], ""),
        (b"", [answer(500), answer(503), right], [0, 0, 0], ""),
        (b"", [stop, right], [0, PART], ""),
        (b"", [stall, right], [0, PART], ""),
        (b"", [stop, answer()], [0, PART], ""),
        (b"", [stop, rest(9), right], [0, PART, 0], ""),
        (b"", [stop, answer(416), right], [0, PART, 0], ""),
        (b"", [stop, rest(PART, OTHER), right], [0, PART, 0], ""),
        (GOOD[:5], [right], [5], ""),
        (OTHER[:5], [right], [5, 0], ""),
        (GOOD, [answer(416)], [len(GOOD)], ""),
        (b"", [answer(404)], [0], "HTTP 404"),
        (b"", [answer(503)], [0, 0, 0], "HTTP 503"),
        (b"", [lambda _: None], [0, 0, 0], "ConnectionError"),
        (b"", [answer(body=b"", Content_Length=9)], [0, 0, 0], "connection lost"),
        (b"", [answer(302, Location="http://[")], [0, 0, 0], "ValueError"),
        (b"", [answer(body=OTHER)], [0], "other bytes"),
        (b"", [answer(body=b"")], [0], "other bytes"),
        (OTHER[:5], [answer(body=OTHER)], [5], "other bytes"),
        (OTHER[:5], [rest(5, OTHER), answer(body=OTHER)], [5, 0], "other bytes"),
        (b"", [never_end], [0], "too large"),
    ],
)
def test_a_download_goes_on_starts_over_or_leaves_nothing_to_the_next_place(
    server: str,
    monkeypatch: MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: bytes,
    answers: list[Answer],
    starts: list[int],
    refusal: str,
) -> None:
    Handler.answers = list(answers)
    if kept:
        DOWNLOADS.mkdir()
        Path(DOWNLOADS, ".partial-file").write_bytes(kept)
    if not refusal:
        assert fetch(f"{server}/file") == f"{server}/file"
    else:
        with pytest.raises(PipelineError, match=rf"{refusal}.*Set MIRROR to a fold.*`make demo`"):
            fetch(f"{server}/file")
        assert list(Path("data").rglob("*")) in ([], [DOWNLOADS])
    assert Handler.asked == starts
    if refusal:
        capsys.readouterr()
        monkeypatch.setenv("MIRROR", f"{server}/")
        assert fetch(f"{server}/official") == f"{server}/official"
        assert f"{server}/file: {refusal}" in capsys.readouterr().out


def test_a_killed_download_goes_on_from_where_it_was(
    server: str, fresh: Project, tmp_path: Path
) -> None:
    """Under DVC, which empties a stage's output folder before the stage runs."""
    Handler.answers = [stall, right]
    project = fresh.copy(tmp_path / "dvc")
    project.environment |= {"MIRROR": server, "no_proxy": "127.0.0.1"}
    project.set(download={"sha256": {"drawn": hashlib.sha256(GOOD).hexdigest()}})
    with project.start("dvc", "repro", "download") as dvc:
        project.wait_until(lambda: any(file.stat().st_size for file in project.halves()))
        os.killpg(dvc.pid, signal.SIGKILL)
    assert project.repro("download") == ["download"]
    assert (project.folder / ARCHIVE).read_bytes() == GOOD
    assert project.halves() == []
    assert Handler.asked == [0, PART]


def test_a_download_can_end_on_another_file_system(server: str, monkeypatch: MonkeyPatch) -> None:
    replace = os.replace

    def rename(source: Path, target: Path) -> None:
        if Path(source).parent == DOWNLOADS:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", rename)
    assert fetch(f"{server}/file") == f"{server}/file"


def test_mirror_comes_first_then_the_shared_folder(server: str, monkeypatch: MonkeyPatch) -> None:
    assert f"/.dvc/tmp/{EXEC_TMP_DIR}/" == sources.EXPERIMENTS  # DVC has no public name for it
    monkeypatch.setenv("MIRROR", "../mine")
    files = [Path("../mine/file"), Path("../shared/mirror/file")]
    copy = Path(".dvc/tmp/exps/standalone/tmp1").absolute()
    for folder in (*(file.parent for file in files), copy):
        folder.mkdir(parents=True)
    for file in files:
        file.write_bytes(GOOD)
    for file in files:
        assert fetch(f"{server}/file") == str(file)
        with monkeypatch.context() as patch:  # in DVC's copy of the project all is as seen from it
            patch.chdir(copy)
            place = sources.fetch(["file"], f"{server}/file", Path("file"), only_good)
        assert Path(place).samefile(file)
        file.unlink()
    assert Handler.asked == []


@pytest.mark.parametrize(
    ("mirror", "send", "said"),
    [
        ("http://me:secret@HOST", right_with_password, "http://***@HOST/file"),
        ("http://me:secret@HOST", stop, "http://***@HOST/file: connection lost"),
        ("http://me:secret@HOST", answer(body=OTHER), "other bytes from http://***@HOST/file"),
        ("http://me:secret/@HOST", right, "http://***@HOST/file: InvalidURL"),
        ("ftp://me:secret@HOST", right, "MIRROR = 'ftp://***@HOST': expected a folder or an http"),
        ("/nowhere/", right, "MIRROR = '/nowhere/': expected a folder or an http"),
        (__file__, right, "expected a folder or an http"),
    ],
)
def test_a_mirror_is_named_and_its_password_shown_nowhere(
    server: str,
    monkeypatch: MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    mirror: str,
    send: Answer,
    said: str,
) -> None:
    host = server.removeprefix("http://")
    monkeypatch.setenv("MIRROR", mirror.replace("HOST", host))
    Handler.answers = [send]
    try:
        told = fetch("http://[")
    except PipelineError as error:
        told = f"error: {error}"
    assert said.replace("HOST", host) in told
    assert told.startswith("error: ") == (send is not right_with_password)
    assert "secret" not in told + "".join(capfd.readouterr())


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal(
    server: str, monkeypatch: MonkeyPatch, terminal: bool
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    fetch(f"{server}/file")
    assert ("100%" in stderr.getvalue()) == terminal


def test_a_file_on_disk_that_is_not_accepted_stops_the_stage(
    server: str, monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR", "..")
    monkeypatch.setattr(download, "URL", f"{server}/official")
    Path("..", ARCHIVE.name).write_bytes(GOOD)
    accepted = SimpleNamespace(sha256={"mine": "0" * 64})
    settings: Any = SimpleNamespace(data=SimpleNamespace(name="cifar10"), download=accepted)
    with pytest.raises(PipelineError, match=r"expected one of download.sha256 in params.yaml"):
        download.main(settings)
    assert list(ARCHIVE.parent.iterdir()) == []
    settings.download.sha256["ours"] = hashlib.sha256(GOOD).hexdigest()
    download.main(settings)
    assert ARCHIVE.read_bytes() == GOOD
