"""The frozen prefix on a Ray cluster: each node computes some pieces of the images.

Used by `features` if RAY_ADDRESS is set; otherwise Ray is not imported. See docs/cluster.md.
"""

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import chain, cycle
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.data.activations import Prefix, batched
from stages.errors import PipelineError, reason
from stages.params import Params
from stages.paths import WEIGHTS
from stages.runtime import description

ADDRESS, ANY_NODE = "RAY_ADDRESS", "CLUSTER_ANY_NODE"  # environment variables
PIECE = 8  # batches sent at a time: a transfer costs time, whatever its size
OUTSTANDING = 2  # pieces per node: one is computed while another is sent
HEAD, NODE = 20, 300  # seconds to wait for an answer of each


def any_node() -> bool:
    """Tell whether nodes are used whose environment differs."""
    return os.environ.get(ANY_NODE) == "1"


def connect(params: Params, image_shape: tuple[int, ...], prefix: Prefix) -> "Cluster":
    """Connect to the cluster at RAY_ADDRESS; start an actor on each node that fits.

    Args:
        params: of params.yaml.
        image_shape: of the raw images, (height, width, 3).
        prefix: the local one.

    Raises:
        PipelineError: Ray is missing, it cannot connect, or no node fits.
    """
    ray = _connected(os.environ[ADDRESS])
    actors = _fitting(ray, params, image_shape)
    print(f"cluster: computing on {', '.join(actors)}", flush=True)
    weights = np.fromfile(WEIGHTS, np.uint8)
    return Cluster(ray, list(actors.values()), weights, prefix.shape, params.features.batch_size)


@dataclass
class Cluster:
    """Computes as a local `Prefix` does, on the nodes of a cluster."""

    ray: Any
    actors: list[Any]
    weights: npt.NDArray[np.uint8]  # bytes of the file
    shape: tuple[int, ...]
    batch_size: int

    def __call__(self, images: Iterable[npt.NDArray]) -> Generator[npt.NDArray[np.float16]]:
        """Yield the activations of each image; pieces are sent to the nodes in turn.

        Raises:
            PipelineError: a node is lost; or as `prefix` does.
        """
        ray, pending, turn = self.ray, deque[Any](), cycle(self.actors)
        try:
            weights = ray.put(self.weights)
            for piece in chain(batched(images, PIECE * self.batch_size), [None]):  # None: all sent
                if piece is not None:
                    pending.append(next(turn).compute.remote(weights, piece))
                while pending and (piece is None or len(pending) == OUTSTANDING * len(self.actors)):
                    yield from ray.get(pending[0])
                    pending.popleft()
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PipelineError):
                raise error.cause from None
            raise PipelineError(f"a node failed: {reason(error.cause or error)}") from error
        except ray.exceptions.RayError as error:
            raise PipelineError(
                f"a node is lost: {reason(error)}; `dvc repro` continues with the others"
            ) from None
        finally:
            if pending:  # an error, or Ctrl-C
                ray.shutdown()  # ends the actors; at exit, Ray would print a line for each piece


class _Actor:
    def __init__(self, params: Params, image_shape: tuple[int, ...]) -> None:
        self._params, self._image_shape = params, image_shape
        self._prefix: Prefix | None = None

    def description(self) -> dict[str, Any]:
        return description()

    def compute(self, weights: npt.NDArray, piece: npt.NDArray) -> npt.NDArray[np.float16]:
        from stages.features import frozen_prefix  # which imports this module

        if self._prefix is None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, WEIGHTS.name)
                weights.tofile(path)
                self._prefix = frozen_prefix(self._params, self._image_shape, path)
        return np.stack(list(self._prefix(piece)))


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError:
        remedy = "`pip install --require-hashes -r requirements-cluster.txt`, or unset RAY_ADDRESS"
        raise PipelineError(f"{ADDRESS} is set, but Ray is missing: {remedy}") from None
    on_sigterm = signal.getsignal(signal.SIGTERM)  # which Ray replaces
    try:
        host, _, port = address.rpartition(":")
        # If no server listens, `ray.init` tries for minutes and may end the process.
        socket.create_connection((host, int(port)), HEAD).close()
        # With py_modules, a checkout on a node at this project's path would be imported instead. A
        # copy, because Ray leaves out what a .gitignore above names.
        with tempfile.TemporaryDirectory() as sent:
            code, ignored = Path(__file__).parent, shutil.ignore_patterns("__pycache__")
            shutil.copytree(code, Path(sent, code.name), ignore=ignored)
            silent: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
            ray.init(address, runtime_env={"working_dir": sent}, **silent)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise PipelineError(
            f"{ADDRESS}={address}: {reason(error)}; expected host:port of a running head node, "
            "and the same token here and there (docs/cluster.md)"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
    return ray


def _fitting(ray: Any, *arguments: Any) -> dict[str, Any]:
    """Return an actor on each node whose environment is that of this process, by its address."""
    actor = ray.remote(num_cpus=0, max_restarts=3, max_task_retries=-1)(_Actor)
    actors = {}
    for node in filter(itemgetter("Alive"), ray.nodes()):
        name = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
        pin = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], False)
        actors[name] = actor.options(scheduling_strategy=pin).remote(*arguments)
    here = description()
    answers = {name: actor.description.remote() for name, actor in actors.items()}
    for name, answer in answers.items():
        try:
            there = ray.get(answer, timeout=NODE)
            keys = sorted({*here, *there} - {"OMP_NUM_THREADS"})  # Ray sets it
            pairs = [(key, there.get(key), here.get(key)) for key in keys]
            fault = "; ".join(f"{key} is {a!r}, here {b!r}" for key, a, b in pairs if a != b)
            used = not fault or any_node()
        except ray.exceptions.RayError as error:
            fault, used = reason(getattr(error, "cause", None) or error), False
        if fault:
            print(f"cluster: {name} is {'used' if used else 'left out'}: {fault}", flush=True)
        if not used:
            ray.kill(actors.pop(name))
    if not actors:
        raise PipelineError(
            f"cluster: no node has this process's environment, see above; {ANY_NODE}=1 accepts "
            "others, whose results differ by rounding"
        )
    return actors
