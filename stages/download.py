"""Stage 1: fetch the CIFAR-10 archive whose digest params.yaml accepts."""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.data import sources
from stages.paths import ARCHIVE

if TYPE_CHECKING:
    from stages.params import Params

# Alex Krizhevsky's page, https://www.cs.toronto.edu/~kriz/cifar.html, "python version".
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


def main(params: "Params") -> None:
    """Write data/raw/cifar-10-python.tar.gz."""
    accepted = params.download.sha256.values()

    def accept(_path: Path, found: str, _place: str) -> str | None:
        if found in accepted:
            return None
        return f"sha256 is {found}, expected one of download.sha256 in params.yaml"

    sources.fetch([ARCHIVE.name], URL, ARCHIVE, accept)
