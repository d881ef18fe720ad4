"""Stage 1: fetch the CIFAR-10 archive whose digest params.yaml accepts; nothing for own images."""

from pathlib import Path

from stages.data import sources
from stages.data.photos import printable, walk
from stages.errors import PipelineError
from stages.params import Params
from stages.paths import ARCHIVE, CIFAR10, PHOTOS

NONE = "nothing-downloaded"
# Alex Krizhevsky's page, https://www.cs.toronto.edu/~kriz/cifar.html, "python version".
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


def main(params: Params) -> None:
    """Write data/images/cifar10: the archive, or with another `data.name` an empty file."""
    check(params.data.name)
    if params.data.name != CIFAR10:
        ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        (ARCHIVE.parent / NONE).touch()  # DVC warns of an empty folder
        print(f"data.name is {params.data.name}: nothing to download")
        return
    accepted = params.download.sha256.values()

    def accept(_path: Path, found: str, _place: str) -> str | None:
        if found in accepted:
            return None
        return f"sha256 is {found}, expected one of download.sha256 in params.yaml"

    sources.fetch([ARCHIVE.name], URL, ARCHIVE, accept)


def check(name: str) -> None:
    """Raise PipelineError unless DVC can read, to hash them, the images of a data set."""
    inside = {path.name for path in ARCHIVE.parent.glob("[!.]*")}
    if others := sorted(inside - {ARCHIVE.name, NONE}):
        raise PipelineError(
            f"{ARCHIVE.parent} has {printable(others[0])}, but is an output of this stage, and DVC "
            "deletes what is in it; move your own images to a folder of another name"
        )
    if name == CIFAR10:
        return
    place = PHOTOS / name
    if not place.exists():
        raise PipelineError(
            f"{place} is missing; put class folders or an archive of them there, or a link to them "
            "(docs/own-images.md), or set data.name to cifar10"
        )
    # DVC waits for a pipe forever and does not follow a link to a folder.
    for path in walk(place):
        if not path.is_file() or any("\udc80" <= char <= "\udcff" for char in str(path)):
            raise PipelineError(
                f"{printable(path)}: expected a file with a name in UTF-8, no pipe, no link to a "
                "folder or to nothing; remove, rename or copy it"
            )
