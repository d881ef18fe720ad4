"""Large outputs stored once: the workspace's copy becomes a link to DVC's cache.

DVC has one link type for all outputs. The safe one, copies, stays the default here, because people
overwrite cifar10.h5, and root can write through a hard link into the cache, protected or not. Only
the features, which nobody edits, are linked, once DVC has put them into its cache: by the stage
that reads them first.
"""

from pathlib import Path

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo

LINKS = ["reflink", "hardlink", "symlink", "copy"]


def link_to_cache(path: Path) -> None:
    """Replace an output's copy in the workspace by links, as `dvc checkout --relink` does.

    A `cache.type` that is configured is respected. A failure costs disk space and
    nothing else, so it is reported and passed over.

    Args:
        path: an output that is in DVC's cache. If it is missing nothing is done: who reads it says
            so in fewer words than DVC.
    """
    if not path.exists():
        return
    try:
        with Repo() as repo:
            chosen = repo.config["cache"].get("type")
        with Repo(config={"cache": {"type": chosen or LINKS}}) as repo:
            repo.checkout([str(path)], relink=True, force=False)
    except NotDvcRepoError:
        return  # the stage is run by hand, in a folder without DVC
    except (DvcException, OSError) as error:
        print(f"{path}: stays a copy beside DVC's cache: {error}", flush=True)
