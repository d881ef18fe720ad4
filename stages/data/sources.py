"""Fetch files from a mirror, a shared folder beside the project, or the official URL.

A file is accepted by its digest. Only weights for which Keras has no hash are accepted because they
come from the official URL (stages/backbone.py). The place is not written to any tracked file. A
download that was interrupted or killed resumes.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import requests
from tqdm import tqdm

from stages.errors import PipelineError
from stages.files import digest, replacing
from stages.paths import DOWNLOADS

SHARED_MIRROR = Path("../shared/mirror")
EXPERIMENTS = "/.dvc/tmp/exps/"  # where DVC makes temporary copies of a project
URL_STARTS = ("http://", "https://")
ATTEMPTS = 3
TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
CHUNK = 2**16  # bytes
# The archive has 170 MB; the largest weights that Keras has without their top, ConvNeXtXLarge's,
# have 350 million numbers in 1.4 GB.
SIZE_LIMIT = 2 * 2**30  # bytes

# (path, SHA-256, source) -> reason for rejection, or None.
Accept = Callable[[Path, str, str], str | None]


def from_project(path: Path) -> Path:
    """Return a relative path as seen from the project, also in a temporary copy that DVC made."""
    project, in_experiment, _ = str(Path.cwd()).partition(EXPERIMENTS)
    return Path(project) / path if in_experiment else path


def fetch(names: Sequence[str], url: str, target: Path, accept: Accept) -> str:
    """Copy or download a file from the first place that has it.

    The places are what the environment variable MIRROR names, a folder or a URL, then
    `SHARED_MIRROR`, then `url`. A URL that cannot be reached, or returns other bytes than are
    accepted, is reported in one line, and the next place is tried. A file on disk with other bytes
    stops the search: somebody put it there for this run.

    Args:
        names: names of the file in a mirror.
        url: where it is published.
        target: where it goes. A partial download is kept in `DOWNLOADS`, for the next call.
        accept: decides whether a file is the wanted one.

    Returns:
        The source, password masked; `accept` gets the same.

    Raises:
        PipelineError: MIRROR is not a folder or URL, a file on disk is rejected, or none is found.
        OSError: a file on disk cannot be read, or the target cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    refusals = []
    for place in _places(names, url):
        get = _download if place.startswith(URL_STARTS) else _copy
        refusal = get(place, target, accept)
        shown = _without_password(place)
        if refusal is None:
            print(f"{target.name}: {shown}, sha256 {digest(target)}", flush=True)
            return shown
        refusals.append(f"{shown}: {refusal}")
    raise PipelineError(
        f"{target.name}: not found in any source ({'; '.join(refusals)}). Set MIRROR to a folder "
        "that holds it, or run `make demo`, which needs no download"
    )


def _places(names: Sequence[str], url: str) -> list[str]:
    """Return paths and URLs in the order of search."""
    bases = [str(from_project(SHARED_MIRROR))]
    if mirror := os.environ.get("MIRROR"):
        if not mirror.startswith(URL_STARTS):
            folder = from_project(Path(mirror))
            if not folder.is_dir():
                shown = _without_password(mirror)
                raise PipelineError(f"MIRROR = {shown!r}: expected a folder or an http(s):// URL")
            mirror = str(folder)
        bases.insert(0, mirror.rstrip("/"))
    return [f"{base}/{name}" for base in bases for name in names] + [url]


def _without_password(place: str) -> str:
    return re.sub(r"^(\w+://).*@", r"\1***@", place)  # also where the rest is no proper URL


def _copy(path: str, target: Path, accept: Accept) -> str | None:
    """Copy a file; return the reason for failure, or None."""
    if not Path(path).is_file():
        return "not there"
    with replacing(target) as partial:
        shutil.copyfile(path, partial)
        if refusal := accept(partial, digest(partial), path):
            raise PipelineError(f"{path}: {refusal}")
    return None


def _download(url: str, target: Path, accept: Accept) -> str | None:
    """Download a file, in several attempts; return the reason for failure, or None."""
    # Not beside the target: DVC empties an output folder before its stage runs.
    partial = DOWNLOADS / f".partial-{target.name}"
    partial.parent.mkdir(parents=True, exist_ok=True)
    shown = _without_password(url)
    refusal = None
    for attempt in range(ATTEMPTS):
        time.sleep(attempt)
        try:
            resumed = _transfer(url, partial)
        except (requests.RequestException, ValueError) as error:  # ValueError: of a malformed URL
            refusal = _reason(error)
            answer = getattr(error, "response", None)
            again = answer is None or answer.status_code >= 500  # may be a network error
        else:
            too_large = partial.stat().st_size > SIZE_LIMIT
            refusal = "too large" if too_large else accept(partial, digest(partial), shown)
            if refusal is None:
                with replacing(target) as new:
                    shutil.move(partial, new)  # a copy if data/images is on another file system
                return None
            partial.unlink()
            again = resumed  # the first part may have been of another file
        print(f"{shown}: {refusal}", flush=True)
        if not again:
            break
    if partial.exists() and partial.stat().st_size == 0:
        partial.unlink()  # nothing to resume
    return refusal


def _transfer(url: str, partial: Path) -> bool:
    """Write what a URL serves; return whether it was appended to an earlier part."""
    start = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # else some servers compress a .tar.gz once more
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        follows = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if start and (status == 416 or (status == 206 and not follows)):
            return True  # nothing to resume; the digest check decides
        response.raise_for_status()
        if status != 206:  # a server that cannot resume sends the whole file
            start = 0
        total = start + int(response.headers.get("Content-Length", 0))
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=None)
        with bar, partial.open("ab" if start else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > SIZE_LIMIT:
                    break
    return start > 0


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong; the library's own may hold a URL with its password."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "connection lost"
    return type(error).__name__
