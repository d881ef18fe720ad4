"""A clone of a commit with an empty cache."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from stages.data.sources import SHARED_MIRROR
from stages.params import PARAMS
from stages.paths import ARCHIVE


class Clone(NamedTuple):
    """A clone: its folder, and the environment variables that its commands get."""

    folder: Path
    variables: Mapping[str, str]

    def run(self, *arguments: str) -> tuple[float, float]:
        """Run `python -m`; end this process if it fails. Return wall seconds and peak MiB.

        The memory is the peak of the largest process, the command or a descendant.
        """
        command = [sys.executable, "-m", *arguments]
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=self.folder, env=self.variables) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"error: python -m {' '.join(arguments)}: failed in a clone, see above")
        return time.perf_counter() - start, used.ru_maxrss / 1024


@contextmanager
def clone(settings: Mapping[str, Any], commit: str = "HEAD") -> Iterator[Clone]:
    """Clone a commit, with other values in params.yaml; the clone is deleted after the block.

    Own cache, no user configuration: nothing is reused.
    """
    with tempfile.TemporaryDirectory(prefix="cifar10-", ignore_cleanup_errors=True) as root:
        folder = Path(root, "project")
        if subprocess.run(["git", "clone", "--quiet", ".", folder], check=False).returncode:
            sys.exit("error: this works on clones; expected a Git repository")
        subprocess.run(["git", "-C", folder, "checkout", "--quiet", commit], check=True)
        print(f"clone of commit {commit}, without what is not committed", flush=True)
        (folder / ".dvc/config.local").write_text("[cache]\n    dir = cache\n")
        change(folder, settings)
        variables = os.environ | {"MIRROR": mirror()}
        variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
        for place in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG"):
            variables[f"DVC_{place}_DIR"] = f"{root}/dvc"
        yield Clone(folder, variables)


def change(folder: Path, settings: Mapping[str, Any]) -> None:
    """Change values in a project's params.yaml by "section.key"; the others stay as written."""
    yaml = YAML()
    params = yaml.load(folder / PARAMS)
    for key, value in settings.items():
        section, name = key.split(".")
        params[section][name] = value
    yaml.dump(params, folder / PARAMS)


def mirror() -> str:
    """Return MIRROR as seen from any folder, else the shared mirror or what has the archive."""
    given = os.environ.get("MIRROR")
    places = sorted((SHARED_MIRROR, ARCHIVE.parent), key=lambda p: not (p / ARCHIVE.name).exists())
    for folder in [given] if given else places:
        if os.path.isdir(folder):
            return os.path.abspath(folder)
    return given or ""
