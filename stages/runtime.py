"""The environment: what the bits of a result depend on beside code, settings and data."""

import contextlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import loky
import numpy as np
import numpy.typing as npt
import tensorflow as tf

# Instruction sets by which kernels are chosen, each with its own order of adding and rounding.
INSTRUCTION_SETS = ("avx", "amx", "fma", "f16c", "sse4", "asimd", "sve", "bf16", "i8mm")
# Environment variables that choose how TensorFlow, oneDNN and NumPy compute begin so.
VARIABLES = (
    *("TF_CPU_", "TF_ENABLE_", "TF_NUM_", "TF_SET_", "TF_XLA_", "XLA_"),
    *("ONEDNN_", "DNNL_", "OMP_", "NPY_", "CUDA_"),
)


def set_up(seed: int, at_once: int = 1) -> None:
    """Hold this process to the same bits in every run, and print what it runs on.

    Seeds Python, NumPy and TensorFlow, and lets TensorFlow use only reproducible operations. The
    same machine then gives the same bits; another processor may round otherwise. TensorFlow gets as
    many threads as there are processors, unless it has computed already.

    Args:
        seed: any integer from 0 on.
        at_once: how many large operations can run at the same time. With no more processors than
            that, each has one thread; else all share all of them.
    """
    count = loky.cpu_count()
    with contextlib.suppress(RuntimeError):  # it has computed already, as it can have in a test
        tf.config.threading.set_intra_op_parallelism_threads(1 if count <= at_once else count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    # A user's ~/.keras/keras.json may say otherwise.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    print(json.dumps(description()))
    print(f"computes on {device()}", flush=True)


def use_bfloat16() -> bool:
    """Let TensorFlow convolve in bfloat16 where the processor has instructions for it.

    Weights, sums and statistics stay float32 (Kalamkar et al. 2019,
    https://arxiv.org/abs/1905.12322). Elsewhere bfloat16 would be emulated, so nothing changes.

    Returns:
        Whether it does.
    """
    instructions = description()["instructions"].split()
    if "avx512_bf16" not in instructions or tf.config.list_physical_devices("GPU"):
        return False
    # In oneDNN this one is slower in bfloat16 than in float32, by a factor of four.
    os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_ALLOWLIST_REMOVE"] = (
        "DepthwiseConv2dNativeBackpropInput"
    )
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    print("convolutions in bfloat16", flush=True)
    return True


def device() -> str:
    """Name what TensorFlow computes on. With a GPU it has not been run."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return ", ".join(gpu.name for gpu in gpus)
    return f"the CPU, {loky.cpu_count()} threads"


def description() -> dict[str, Any]:
    """Return the environment of this process, the same in every run on the same machine.

    Returns:
        Versions of Python and of the packages that compute; the system; the processor's model and
        the instruction sets that matter for rounding; how many processors this process may use, by
        its affinity, a container's CPU quota or LOKY_MAX_CPU_COUNT; the environment variables that
        choose how it computes.
    """
    processor = _first_processor()
    flags = (processor.get("flags") or processor.get("Features") or "").split()
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor.get("model name") or platform.processor() or platform.machine(),
        "processors": loky.cpu_count(),
        "instructions": " ".join(sorted(f for f in flags if f.startswith(INSTRUCTION_SETS))),
        **{name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    }


def _first_processor() -> dict[str, str]:
    """Return what Linux tells of its first processor, {} elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def predict(model: keras.Model, x: npt.NDArray, batch_size: int) -> npt.NDArray[np.float32]:
    """Return what `model.predict` does, at once.

    Given an array, that one makes a dataset which tf.data tunes while it runs, and in the end waits
    for the tuner's sleep: 17 s after 24 s of work (TensorFlow 2.21.0, one run).

    Args:
        model: with one input and one output.
        x: its input, (n, ...).
        batch_size: rows at a time.
    """
    starts = range(0, len(x), batch_size)
    return np.concatenate([model.predict_on_batch(x[i : i + batch_size]) for i in starts])
