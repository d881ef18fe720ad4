"""A copy of this project on its own: DVC's cache, records and settings are the copy's.

Whatever a user has configured for all projects, or for this one in `.dvc/config`, would reach into
a copy too: from a shared cache DVC would take results that the copy is there to compute.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stages.transfer import interruption

PLACES = ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Give an empty folder that is gone after the block, Ctrl-C or not."""
    with interruption.owning(
        lambda: Path(tempfile.mkdtemp(prefix=prefix)).resolve(),
        lambda folder: shutil.rmtree(folder, ignore_errors=True),  # one that was killed may write
    ) as folder:
        yield folder


def own_cache(project: Path, git: bool = True) -> None:
    """Give a copy a cache of its own, in its folder.

    Args:
        project: the copy's folder.
        git: whether it is a Git repository, which DVC has to be told if not.
    """
    settings = "[cache]\n    dir = cache\n"  # relative to the file
    if not git:
        settings += "[core]\n    no_scm = true\n"
    (project / ".dvc/config.local").write_text(settings)


def variables(root: Path) -> dict[str, str]:
    """Return environment variables: DVC's records go to `root`, a user's settings nowhere."""
    return {f"DVC_{place}_DIR": str(root / "dvc") for place in PLACES}
