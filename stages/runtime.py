"""The environment: what the bits of a result depend on beside code, settings and data."""

import contextlib
import json
import logging
import os
import platform
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import loky
import numpy as np
import numpy.typing as npt
import tensorflow as tf

# Instruction sets that affect kernel selection, hence the order of additions.
INSTRUCTION_SETS = ("avx", "amx", "fma", "f16c", "sse4", "asimd", "sve", "bf16", "i8mm")
# Prefixes of environment variables that affect TensorFlow, oneDNN and NumPy.
VARIABLES = (
    *("TF_CPU_", "TF_ENABLE_", "TF_NUM_", "TF_SET_", "TF_XLA_", "XLA_"),
    *("ONEDNN_", "DNNL_", "OMP_", "NPY_", "CUDA_"),
)
AT_ONCE = 8  # batches in parallel at the most: each takes memory


def set_up(seed: int, at_once: int = AT_ONCE) -> None:
    """Make this process reproducible, and print what it runs on.

    Seeds Python, NumPy and TensorFlow, and lets TensorFlow use only reproducible operations. The
    same machine then gives the same bits; another processor may round differently.

    TensorFlow, unless it is initialized, gets as many threads as there are processors. With no more
    processors than `at_once` operations in parallel, each operation has one thread: threads that
    share an operation wait for each other.
    """
    count = loky.cpu_count()
    with contextlib.suppress(RuntimeError):  # it has computed already, as it can have in a test
        tf.config.threading.set_intra_op_parallelism_threads(1 if count <= at_once else count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    # Keras warns that the saved model is an .h5, and that a loaded one has no metrics yet.
    logging.getLogger("absl").setLevel(logging.ERROR)
    # A user's ~/.keras/keras.json may set others.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    print(json.dumps(description()), flush=True)


def gpus() -> list[str]:
    """Name the GPUs that TensorFlow computes on, if any; untested with a GPU."""
    return [gpu.name for gpu in tf.config.list_physical_devices("GPU")]


def description() -> dict[str, Any]:
    """Return the environment of this process, the same in every run on the same machine.

    Processors are those that this process may use, by its affinity, a container's CPU quota or
    LOKY_MAX_CPU_COUNT.
    """
    processor = _first_processor()
    flags = (processor.get("flags") or processor.get("Features") or "").split()
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor.get("model name") or platform.processor() or platform.machine(),
        "processors": loky.cpu_count(),
        "device": ", ".join(gpus()) or "CPU",
        "instructions": " ".join(sorted(f for f in flags if f.startswith(INSTRUCTION_SETS))),
        **{name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    }


def _first_processor() -> dict[str, str]:
    """Return the first entry of /proc/cpuinfo, {} where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def in_parallel(compute: Callable[[Any], Any], batches: Iterable[Any]) -> Generator[Any]:
    """Yield `compute` of each, in order, some of them in parallel; read no more ahead than needed.

    With a GPU, one at a time.
    """
    count = 1 if gpus() else min(AT_ONCE, loky.cpu_count())
    waiting = deque[Future]()
    with ThreadPoolExecutor(count) as pool:
        for batch in batches:
            waiting.append(pool.submit(compute, batch))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def predict(model: keras.Model, x: Any, batch_size: int) -> npt.NDArray[np.float32]:
    """Like `model.predict` for what has a length and slices, with batches in parallel.

    It has no tf.data, whose autotuning thread delays the return: 17 s after 24 s of work
    (TensorFlow 2.21.0, one run).
    """
    model.make_predict_function()  # else each thread may trace it
    parts = (slice(start, start + batch_size) for start in range(0, len(x), batch_size))
    return np.concatenate(list(in_parallel(lambda part: model.predict_on_batch(x[part]), parts)))
