"""The stage `features` on a real Ray cluster, whose nodes are all on this machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from stages import cluster
from stages.data.activations import KEY
from stages.errors import PipelineError
from stages.files import digest
from stages.runtime import description
from tests.conftest import LIMIT, Project, one_line

pytestmark = pytest.mark.cluster
TOKEN = "1" * 64
KEPT = "data/checkpoint/features"
OUTPUTS = ("data/features", "data/keys")
ROW = KEY + 2 * 2 * 2 * 512  # bytes of a key and of 2x2 pixels of 512 channels, float16
DIFFERENT = "ONEDNN_MAX_CPU_ISA"


class Nodes:
    """A head node and another, as after `ray start`."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        self.folder = Path(folder)
        self.cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False})
        self.second = self.cluster.add_node()

    @staticmethod
    def name(node: Any) -> str:
        return f"{node.node_ip_address}:{node.node_manager_port}"

    def alive(self) -> int:
        return 1 + len(self.cluster.worker_nodes)

    def actors(self) -> list[int]:
        """Return the processes of actors that compute or wait."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                title, where = (entry / "cmdline").read_bytes(), (entry / "cwd").readlink()
            except OSError:
                continue
            if title.startswith(b"ray::_Actor") and where.is_relative_to(self.folder):
                found.append(int(entry.name))
        return found

    def built(self) -> int:
        """Return how many processes have built a prefix: each prints its environment."""
        logs = self.folder.glob("ray/session_2*/logs/worker-*.out")
        return sum('{"python":' in log.read_text() for log in logs)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    # A path of pytest's own would be too long for a socket.
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_TMPDIR", folder)
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", TOKEN)
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.delenv("RAY_ADDRESS", raising=False)
        pytest.importorskip("ray", reason="requirements-dev.txt is not installed")  # reads these
        started = Nodes(folder)
        yield started
        started.cluster.shutdown()


@pytest.fixture(scope="module")
def computed(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose features were computed without a cluster, in batches of 2 images."""
    project = fresh.copy(tmp_path_factory.mktemp("computed"))
    project.set(features={"batch_size": 2})
    for stage in ("download", "backbone", "preprocess", "features"):
        done = project.stage(stage)
        assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def project(computed: Project, nodes: Nodes, tmp_path: Path) -> Project:
    """The project without its features, with the cluster's address."""
    project = computed.copy(tmp_path)
    for name in OUTPUTS:
        shutil.rmtree(project.folder / name)
    project.environment |= {
        "RAY_ADDRESS": nodes.cluster.address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
    }
    return project


def features(project: Project) -> dict[str, str]:
    files = [path for name in OUTPUTS for path in (project.folder / name).iterdir()]
    assert len(files) == 6
    return {path.name: digest(path) for path in files}


def kept(project: Project) -> int:
    """Return how many rows are kept for the next run."""
    files = (project.folder / KEPT).glob("*")
    return sum(file.stat().st_size for file in files) // ROW


def half_way(project: Project, process: "subprocess.Popen[bytes]") -> None:
    """Wait until some activations are on the disk."""
    project.wait_until(lambda: kept(project) > 0)
    assert process.poll() is None
    assert kept(project) < 270


def test_two_nodes_compute_the_same_bytes_though_a_process_is_killed(
    project: Project, computed: Project, nodes: Nodes
) -> None:
    """A third node, whose environment differs, is left out."""
    built = nodes.built()
    node = nodes.cluster.add_node(env_vars={DIFFERENT: "AVX2"})
    with project.start("python3", "-m", "stages", "features") as process:
        half_way(project, process)
        project.wait_until(lambda: len(nodes.actors()) == 2)  # the third's has ended
        before = set(nodes.actors())
        sent = {path.name for actor in before for path in Path(f"/proc/{actor}/cwd").iterdir()}
        assert sent == {"stages"}  # no data
        os.kill(min(before), signal.SIGKILL)
        project.wait_until(lambda: bool(set(nodes.actors()) - before))  # another one is started
        assert process.wait(LIMIT) == 0, project.log.read_text()
    nodes.cluster.remove_node(node)
    said = project.log.read_text()
    fitting = {nodes.name(each) for each in (nodes.cluster.head_node, nodes.second)}
    assert f"cluster: {nodes.name(node)} is left out: {DIFFERENT} is 'AVX2', here None\n" in said
    assert set(re.findall(r"computing on (\S+), (\S+)\n", said)[0]) == fitting
    assert "train_view1: 270 images, 270 computed" in said
    assert "is lost" not in said
    # On two nodes; a killed process can take with it what it has printed.
    project.wait_until(lambda: nodes.built() >= built + 2)
    assert features(project) == features(computed)


def test_another_run_finishes_what_was_interrupted(
    project: Project, computed: Project, nodes: Nodes
) -> None:
    with project.start("python3", "-m", "stages", "features") as process:
        half_way(project, process)
        process.send_signal(signal.SIGTERM)  # like Ctrl-C, but Ray replaces its handler
        assert process.wait(LIMIT) == 130
    assert project.log.read_text().endswith("\nfeatures: interrupted; run `dvc repro` to resume\n")
    project.wait_until(lambda: not nodes.actors())  # they end with the run
    rows = kept(project)
    done = project.stage("features")
    assert done.returncode == 0, done.stderr
    assert f"train_view0: 270 images, {270 - rows} computed" in done.stdout
    assert features(project) == features(computed)


def test_where_nobody_listens_the_error_is_one_line(project: Project) -> None:
    failed = project.stage("features", RAY_ADDRESS="127.0.0.1:9")
    assert one_line(failed).startswith("error: RAY_ADDRESS=127.0.0.1:9: [Errno 111] Connection ref")


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("auto", "invalid literal"),
        ("ray://localhost:10001", r"\[Errno -\d\]"),
    ],
)
def test_the_address_is_that_of_a_server(
    address: str, fault: str, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    expected = f"^RAY_ADDRESS={address}: {fault}.*; expected host:port of a running head node"
    with pytest.raises(PipelineError, match=expected):
        cluster.connect(None, (32, 32, 3), None)  # type: ignore[arg-type]


@pytest.fixture
def ray(nodes: Nodes) -> Iterator[Any]:
    module = cluster._connected(nodes.cluster.address)
    yield module
    module.shutdown()


def test_nodes_that_differ_are_used_only_if_asked_for(
    ray: Any, nodes: Nodes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = description() | {"keras": "2.15.0", "OMP_NUM_THREADS": "7"}
    monkeypatch.setattr(cluster, "description", lambda: here)
    fault = f"keras is '{version('keras')}', here '2.15.0'\n"
    monkeypatch.setenv(cluster.ANY_NODE, "0")
    with pytest.raises(PipelineError, match=f"no node has .*{cluster.ANY_NODE}=1"):
        cluster._fitting(ray, None, None)
    said = capsys.readouterr().out
    assert said.count(f" is left out: {fault}") == said.count("cluster: ") == nodes.alive()
    monkeypatch.setenv(cluster.ANY_NODE, "1")
    assert len(cluster._fitting(ray, None, None)) == nodes.alive()
    said = capsys.readouterr().out
    assert said.count(f" is used: {fault}") == said.count("cluster: ") == nodes.alive()


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, r"^an activation of 1e\+05 does not fit float16$"), (1, "^a node is lost: .*died")],
)
def test_an_error_is_that_of_the_prefix_or_of_the_node(
    ray: Any, number: int, expected: str
) -> None:
    class Actor:  # pickled by value, because it is local
        def compute(self, code: npt.NDArray, piece: npt.NDArray) -> npt.NDArray:
            if code[0]:
                os._exit(code[0])
            raise PipelineError("an activation of 1e+05 does not fit float16")

    actor = ray.remote(num_cpus=0, max_restarts=1, max_task_retries=-1)(Actor).remote()
    with pytest.raises(PipelineError, match=expected):
        list(
            cluster.Cluster(ray, [actor], np.array([number], np.uint8), (1,), 1)(
                np.zeros((3, 1, 1, 3), np.uint8)
            )
        )


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "localhost:6379")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PipelineError, match=r"--require-hashes -r requirements-cluster\.txt"):
        cluster.connect(None, (32, 32, 3), None)  # type: ignore[arg-type]
