"""Downloads, against a real HTTP server that misbehaves, and the search through places."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.transfer import places
from stages.transfer.errors import PipelineError
from tests.conftest import Project, one_line

GOOD = b"the right bytes" * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    requests: list[str]

    def do_GET(self) -> None:
        count = self.requests.count(self.path)
        self.requests.append(self.path)
        status, body, length = 200, GOOD, len(GOOD)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
            return
        if self.path == "/missing":
            status, body = 404, b"<html>none</html>"
            length = len(body)
        elif self.path == "/other":
            body = b"<html>sign in</html>"
            length = len(body)
        elif self.path == "/busy" or (self.path == "/busy-once" and count == 0):
            status, body, length = 503, b"", 0
        elif self.path == "/drops" or (self.path == "/drops-once" and count == 0):
            body = GOOD[:5000]
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    monkeypatch.setattr("time.sleep", lambda _: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = Handler
    handler.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", handler.requests
        httpd.shutdown()


def only_good(path: Path, _found: str, _place: str) -> str | None:
    return None if path.read_bytes() == GOOD else "other bytes"


@pytest.mark.parametrize(
    ("path", "asked"), [("/good", 1), ("/moved", 1), ("/busy-once", 2), ("/drops-once", 2)]
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
        ("/other", 1, "other bytes"),
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
    assert f"{url}{path}: " in capsys.readouterr().out
    with pytest.raises(PipelineError, match=r"MIRROR.*make demo"):
        places.fetch([url + path], target.with_name("never.bin"), only_good)
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


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


def test_in_an_experiments_copy_the_shared_folder_is_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "project/.dvc/tmp/exps/standalone/tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MIRROR", raising=False)
    (place,) = places.mirror_places(["a"])
    assert Path(place).resolve() == tmp_path.resolve() / "shared/mirror/a"


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
