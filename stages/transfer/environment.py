"""The environment of a run: what the bits of a result depend on, beside code, settings and data.

`data/environment.json` says it of the outputs in dvc.lock, stage by stage. It is kept in Git, and
is no output of a stage: its digest would be another one on every machine, and what depends on it
would run again. Nothing in it changes from run to run.

Standard library only.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from stages.transfer.errors import PipelineError
from stages.transfer.files import replacing

Environment = dict[str, str | int]

RECORD = Path("data/environment.json")
PRECISION = "float32"  # what `make_deterministic` sees to
PACKAGES = ("tensorflow", "keras", "numpy", "h5py")
# Environment variables that choose how TensorFlow, oneDNN and NumPy compute.
VARIABLES = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_SET_ONEDNN_FPMATH_MODE",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "NPY_DISABLE_CPU_FEATURES",
    "CUDA_VISIBLE_DEVICES",
)
# Instruction sets by which kernels are chosen, each with its own order of adding and rounding.
INSTRUCTION_SETS = ("avx", "amx", "fma", "f16c", "sse4", "asimd", "sve", "bf16", "i8mm")


def environment() -> Environment:
    """Return the environment of this process, the same in every run on the same machine.

    Returns:
        Versions of Python and of the packages that compute or write files ("missing" if there is
        none); precision; system, with its C library; the processor's model and instruction sets;
        how many processors this process may use; accelerators, once TensorFlow is imported; those
        of `VARIABLES` that are set.
    """
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "precision": PRECISION,
        "system": " ".join((platform.system(), platform.machine(), *platform.libc_ver())).strip(),
        "processor": processor_model(),
        "instructions": " ".join(instruction_sets()),
        "processors": usable_processors(),
        "accelerators": ", ".join(_accelerators()) or "none",
        **{name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
    }


def processor_model() -> str:
    """Return the processor's name, as exactly as the system tells it."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return shown.stdout.strip() or platform.machine()
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Return the processor's instruction sets that matter for rounding, sorted; [] off Linux."""
    flags = _cpuinfo().get("flags") or _cpuinfo().get("Features") or ""
    return sorted(flag for flag in flags.split() if flag.startswith(INSTRUCTION_SETS))


def usable_processors() -> int:
    """Return how many processors this process may use, which is how many threads it will have."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def differences(there: Environment, here: Environment) -> list[str]:
    """Return in what one environment is not the other, in words, [] if they are the same."""
    found = []
    for name in [*there, *(name for name in here if name not in there)]:
        a, b = there.get(name, "not set"), here.get(name, "not set")
        if a != b and name == "instructions":
            only = sorted(set(str(a).split()) ^ set(str(b).split()))
            found.append(f"{name}: {' '.join(only)} on one side only")
        elif a != b:
            found.append(f"{name}: {a} there, {b} here")
    return found


def record(stage: str, path: Path = RECORD) -> None:
    """Note that a stage's outputs have been made in the environment of this process."""
    try:
        made = read(path)
    except PipelineError as error:
        print(f"{error}; begun anew", flush=True)
        made = {}
    now = environment()
    if made.get(stage) != now:
        write(path, made | {stage: now})


def write(path: Path, made: Mapping[str, Environment]) -> None:
    """Write which stages ran in which environment: a list, an item for each environment."""
    groups: list[dict[str, Any]] = []
    for stage, own in made.items():
        for group in groups:
            if group["environment"] == own:
                group["stages"].append(stage)
                break
        else:
            groups.append({"stages": [stage], "environment": own})
    with replacing(path) as partial:
        partial.write_text(json.dumps(groups, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Environment]:
    """Return the environment of each stage from a file that `write` wrote, {} if there is none.

    Raises:
        PipelineError: it is something else.
    """
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))
        return {stage: dict(group["environment"]) for group in groups for stage in group["stages"]}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PipelineError(f"{path}: expected what a run of a stage writes there") from error


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _cpuinfo() -> dict[str, str]:
    """Return what Linux tells of its first processor, {} elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _accelerators() -> list[str]:
    tensorflow = sys.modules.get("tensorflow")
    devices = tensorflow.config.list_physical_devices("GPU") if tensorflow else []
    details = tensorflow.config.experimental.get_device_details if tensorflow else dict
    return [str(details(device).get("device_name", device.name)) for device in devices]
