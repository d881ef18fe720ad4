"""Where bytes come from: a mirror, a shared folder beside the project, then the official URLs.

The digest decides whether a file is the right one; the place never does, and is written to no
tracked file.
"""

import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pooch
import requests

from stages.transfer.errors import PipelineError
from stages.transfer.files import digest, replacing

SHARED_MIRROR = Path("../shared/mirror")
EXPERIMENTS = "/.dvc/tmp/exps/"  # where DVC makes temporary copies of a project
ATTEMPTS = 3
URL_STARTS = ("http://", "https://")
TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
PATIENCE = 60  # seconds in which a download has to come on by `PATIENCE * SLOWEST` bytes
SLOWEST = 10_000  # bytes a second
# The archive has 170 MB; the largest weights that Keras has without their top, ConvNeXtXLarge's,
# have 350 million numbers in 1.4 GB.
SIZE_LIMIT = 2 * 2**30  # bytes

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
        if not mirror.startswith(URL_STARTS):
            folder = from_project(Path(mirror))
            if not folder.is_dir():
                raise PipelineError(
                    f"MIRROR = {mirror!r}: expected a folder, or a URL with http(s)://"
                )
            mirror = str(folder)
        yield from (f"{mirror.rstrip('/')}/{name}" for name in names)
    yield from (str(from_project(SHARED_MIRROR / name)) for name in names)


def from_project(path: Path) -> Path:
    """Return a path relative to the project, also in a temporary copy that DVC made of it.

    An absolute one stays as it is.
    """
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
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with target.open("wb") as file:
                _transfer(url, file)
            return
        except requests.RequestException as error:
            answered = error.response is not None and error.response.status_code < 500
            if answered or attempt == ATTEMPTS:
                raise
            print(f"{url}: {_reason(error)}; attempt {attempt + 1} of {ATTEMPTS}", flush=True)
            time.sleep(attempt)


def _transfer(url: str, file: IO[bytes]) -> None:
    """Download once, in a thread, because one that sends a byte a minute reaches no timeout.

    Raises:
        requests.RequestException: the server cannot be reached, is too slow or answers something
            else than the file.
        _RefusedError: the file is larger than `SIZE_LIMIT`.
        OSError: the file cannot be written.
    """
    received = _Received(file)
    errors: list[Exception] = []

    def run() -> None:
        try:
            # As it is: some servers say of a .tar.gz that it is a .tar which they have compressed.
            as_it_is = {"Accept-Encoding": "identity"}
            bar = sys.stderr.isatty()
            download = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT, headers=as_it_is)
            download(url, received, None)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)  # nobody waits for what it still reads
    thread.start()
    while thread.is_alive():
        before = received.size
        thread.join(PATIENCE)
        if thread.is_alive() and received.size - before < PATIENCE * SLOWEST:
            received.given_up = True
            raise requests.Timeout
    for error in errors:
        if isinstance(error, OSError | _RefusedError):  # of requests too
            raise error
        # Such as a Content-Length that is no number.
        raise requests.RequestException(f"no proper answer: {error}") from error


class _Received:
    """A file, for as long as it is wanted, that does not grow beyond `SIZE_LIMIT`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.given_up = False

    def write(self, content: bytes) -> None:
        self.size += len(content)
        if self.size > SIZE_LIMIT:
            raise _RefusedError(f"sends more than {SIZE_LIMIT / 2**30:.3g} GiB")
        if self.given_up:
            raise TimeoutError
        self._file.write(content)

    def flush(self) -> None:
        """Do nothing: pooch asks for it with each kilobyte."""


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong, without the chain of library names."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "timed out, or came too slowly"
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return "cannot be reached, or broke off"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:300]
