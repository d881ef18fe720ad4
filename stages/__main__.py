"""Run one stage: `python -m stages download`.

`python -m stages check` checks the environment and params.yaml, and sets up DVC outside Git. Common
to all stages: both are checked, one stage at a time runs in this folder, and user errors print one
line. No result depends on this file, so it is not a dependency in dvc.yaml.
"""

import contextlib
import fcntl
import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from stages.errors import PipelineError

if TYPE_CHECKING:
    from stages.params import Params

STAGES = (
    "download",
    "backbone",
    "preprocess",
    "features",
    "train_head",
    "fine_tune",
    "evaluate",
    "report",
    "gate",
)
LOCAL_CONFIG = ".dvc/config.local"


def main(arguments: list[str]) -> int:
    """Run a stage, or the check; return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    name = " ".join(arguments)
    try:
        if name not in ("check", *STAGES):
            raise PipelineError(f"{name!r}: expected check or one of {', '.join(STAGES)}")
        check_environment()
        check() if name == "check" else run(name)
    except PipelineError as error:
        fault = " ".join(str(error).split())
    except ImportError as error:
        fault = f"{sys.executable}: {error}; if a package is missing or damaged, `make reproduce`"
    except FileNotFoundError as error:
        fault = (
            f"{error.filename or error} is missing; `dvc repro` regenerates outputs, `git "
            "checkout` restores project files"
        )
    except OSError as error:
        where = error.filename or f"{name}, writing"
        fault = (
            f"{where}: {error.strerror or error}; fix this, then run `dvc repro` (`dvc "
            "checkout` restores outputs that DVC has removed before this stage)"
        )
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run `dvc repro` to resume", file=sys.stderr)
        return 130
    else:
        return 0
    print(f"error: {fault}", file=sys.stderr)
    return 1


def check_environment() -> None:
    """Raise unless LOKY_MAX_CPU_COUNT is a number and the packages have the locked versions."""
    if not (count := os.environ.get("LOKY_MAX_CPU_COUNT", "1")).isdecimal():
        raise PipelineError(f"LOKY_MAX_CPU_COUNT = {count!r}: expected a number of processors")
    remedy = "run `make reproduce`, or `source .venv/bin/activate` and `unset PYTHONPATH` first"
    with open("requirements.txt", encoding="utf-8") as file:
        lock = file.read()
    for name in ("keras", "tensorflow", "numpy", "h5py"):
        locked = re.findall(rf"(?m)^{name}==(\S+)", lock)  # several if Pythons need different ones
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = ""
        if found not in locked:
            fault = f"has {name} {found}" if found else f"lacks {name}"
            expected = " or ".join(locked)
            raise PipelineError(f"{sys.executable} {fault}, expected {expected}; {remedy}")


def settings() -> "Params":
    """Load and validate params.yaml."""
    from stages import params
    from stages.nets import applications

    found = params.load()
    applications.check(found.backbone.name, found.backbone.image_size)
    return found


def check() -> None:
    """Check params.yaml and own images; set DVC's `core.no_scm` if this is in no Git repository.

    Otherwise DVC requires a Git repository; a ZIP download is not one.
    """
    from stages import download

    download.check(settings().data.name)
    no_scm = False
    if os.path.exists(LOCAL_CONFIG):
        with open(LOCAL_CONFIG, encoding="utf-8") as file:
            no_scm = "no_scm" in file.read()
    here = Path.cwd()
    without_git = not any((folder / ".git").exists() for folder in (here, *here.parents))
    if no_scm != without_git:
        change = ["core.no_scm", "true"] if without_git else ["--unset", "core.no_scm"]
        command = [sys.executable, "-m", "dvc", "config", "--local", *change]
        if subprocess.run(command, check=False).returncode:
            raise PipelineError(f"DVC could not write {LOCAL_CONFIG}, see its message above")


def run(name: str) -> None:
    """Run a stage under the lock; raise if its settings changed meanwhile."""
    from stages import params

    given = settings()
    with alone(name):
        importlib.import_module("stages." + name).main(given)
        before, now = (params.of_stage(name, each) for each in (given, params.load()))
    changed = [key for key in before if now[key] != before[key]]
    if changed:
        raise PipelineError(
            f"params.yaml: {', '.join(changed)} changed while {name} ran, and DVC would record "
            "the new value for this result; run `dvc repro` again"
        )


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the lock on data/; the kernel releases it when the process exits."""
    os.makedirs("data", exist_ok=True)
    with open("data/.lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"waiting for stage {file.read()}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{name} (pid {os.getpid()})")
        file.flush()
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
