"""Where bytes come from: a mirror, a shared folder beside the project, then the official URLs.

The digest decides whether a file is the right one; the place never does, and is written to no
tracked file.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pooch
import requests

from stages.transfer.errors import PipelineError
from stages.transfer.files import digest, replacing

SHARED_MIRROR = Path("../shared/mirror")
EXPERIMENTS = "/.dvc/tmp/exps/"  # where DVC makes temporary copies of a project
ATTEMPTS = 3
URL_STARTS = ("http://", "https://")
TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte

# Given a file, its SHA-256 and where it is from: why it is refused, or None if it is accepted.
Accept = Callable[[Path, str, str], str | None]


def mirror_places(names: Sequence[str]) -> Iterator[str]:
    """Yield where files of these names may lie off the internet, in the order of search.

    Args:
        names: file names that the wanted file goes by.

    Yields:
        Paths, or URLs where the environment variable MIRROR is one.

    Raises:
        PipelineError: MIRROR is neither a folder nor an http(s) URL.
    """
    if mirror := os.environ.get("MIRROR"):
        if not Path(mirror).is_dir() and not mirror.startswith(URL_STARTS):
            raise PipelineError(f"MIRROR = {mirror!r}: expected a folder, or a URL with http(s)://")
        yield from (f"{mirror.rstrip('/')}/{name}" for name in names)
    yield from (str(from_project(SHARED_MIRROR / name)) for name in names)


def from_project(path: Path) -> Path:
    """Return a path relative to the project, also in a temporary copy that DVC made of it."""
    project, in_experiment, _ = str(Path.cwd()).partition(EXPERIMENTS)
    return Path(project) / path if in_experiment else path


def fetch(places: Sequence[str], target: Path, accept: Accept) -> str:
    """Copy or download a file from the first place that has it.

    A URL that cannot be reached, or serves other bytes than are accepted, costs a line, and the
    next place is tried. A file on disk with other bytes stops the search: somebody put it there for
    this run.

    Args:
        places: paths and http(s) URLs, in the order of search.
        target: where the file goes. Nothing is left there if no place serves.
        accept: decides whether a file is the wanted one.

    Returns:
        The place that served.

    Raises:
        PipelineError: a file on disk is refused, or no place serves.
        OSError: the target cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    refusals = []
    for place in places:
        is_url = place.startswith(URL_STARTS)
        if not is_url and not Path(place).is_file():
            refusals.append(f"{place}: not there")
            continue
        try:
            with replacing(target) as partial:
                if is_url:
                    _download(place, partial)
                else:
                    shutil.copyfile(place, partial)
                found = digest(partial)
                if refusal := accept(partial, found, place):
                    raise _RefusedError(refusal)
                print(f"{target.name}: {place}, sha256 {found}", flush=True)
            return place
        except (_RefusedError, OSError, requests.RequestException) as error:
            unwritable = is_url and not isinstance(error, _RefusedError | requests.RequestException)
            if unwritable or getattr(error, "errno", None) == errno.ENOSPC:
                raise
            refusals.append(f"{place}: {_reason(error)}")
            if isinstance(error, _RefusedError) and not is_url:
                raise PipelineError(refusals[-1]) from error
            print(refusals[-1], flush=True)
    raise PipelineError(
        f"{target.name}: no place has it ({'; '.join(refusals)}). Set MIRROR to a folder that "
        "holds it, or run `make demo`, which needs no download"
    )


class _RefusedError(Exception):
    pass


def _download(url: str, target: Path) -> None:
    """Download with a progress bar; try again where the line, not the answer, was at fault."""
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            downloader(url, str(target), None)
            return
        except requests.RequestException as error:
            answered = error.response is not None and error.response.status_code < 500
            if answered or attempt == ATTEMPTS:
                raise
            print(f"{url}: {_reason(error)}; attempt {attempt + 1} of {ATTEMPTS}", flush=True)
            time.sleep(attempt)


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong, without the chain of library names."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "timed out"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached, or broke off"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())
