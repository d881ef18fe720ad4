"""Where bytes come from: a mirror, a shared folder beside the project, then the official URL.

The digest decides whether a file is the right one; the place never does, and is written to no
tracked file. A download that broke off, or whose process was killed, goes on from where it ended.
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

SHARED_MIRROR = Path("../shared/mirror")
EXPERIMENTS = "/.dvc/tmp/exps/"  # where DVC makes temporary copies of a project
URL_STARTS = ("http://", "https://")
ATTEMPTS = 3
TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
CHUNK = 2**16  # bytes
# The archive has 170 MB; the largest weights that Keras has without their top, ConvNeXtXLarge's,
# have 350 million numbers in 1.4 GB.
SIZE_LIMIT = 2 * 2**30  # bytes
PROGRESS = 10  # seconds from one line to the next

# Given a file, its SHA-256 and where it is from: why it is refused, or None if it is accepted.
Accept = Callable[[Path, str, str], str | None]


def from_project(path: Path) -> Path:
    """Return a relative path as seen from the project, also in a temporary copy that DVC made."""
    project, in_experiment, _ = str(Path.cwd()).partition(EXPERIMENTS)
    return Path(project) / path if in_experiment else path


def fetch(names: Sequence[str], url: str, target: Path, accept: Accept) -> str:
    """Copy or download a file from the first place that has it.

    The places are what the environment variable MIRROR names, a folder or a URL, then
    `SHARED_MIRROR`, then `url`. A URL that cannot be reached, or returns other bytes than are
    accepted, costs a line, and the next place is tried. A file on disk with other bytes stops the
    search: somebody put it there for this run.

    Args:
        names: file names that the wanted file goes by in a mirror.
        url: where it is published.
        target: where it goes. What a download brought before it broke off is kept beside it, for
            the next call.
        accept: decides whether a file is the wanted one.

    Returns:
        The place that served, without the password that a URL may hold; `accept` gets the same.

    Raises:
        PipelineError: MIRROR is no folder and no URL, a file on disk is refused, no place has it.
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
        f"{target.name}: no place has it ({'; '.join(refusals)}). Set MIRROR to a folder that "
        "holds it, or run `make demo`, which needs no download"
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
    """Copy a file; return why there is none, or None where it is done."""
    if not Path(path).is_file():
        return "not there"
    with replacing(target) as partial:
        shutil.copyfile(path, partial)
        if refusal := accept(partial, digest(partial), path):
            raise PipelineError(f"{path}: {refusal}")
    return None


def _download(url: str, target: Path, accept: Accept) -> str | None:
    """Download a file, in several attempts; return why there is none, or None where it is done."""
    partial = target.with_name(f".partial-{target.name}")
    shown = _without_password(url)
    refusal = None
    for attempt in range(ATTEMPTS):
        time.sleep(attempt)
        try:
            resumed = _transfer(url, partial)
        except (requests.RequestException, ValueError) as error:  # ValueError: of a malformed URL
            refusal = _reason(error)
            answer = getattr(error, "response", None)
            again = answer is None or answer.status_code >= 500  # the line may have been at fault
        else:
            too_large = partial.stat().st_size > SIZE_LIMIT
            refusal = "too large" if too_large else accept(partial, digest(partial), shown)
            if refusal is None:
                os.replace(partial, target)
                return None
            partial.unlink()
            again = resumed  # the first part may have been of another file
        print(f"{shown}: {refusal}", flush=True)
        if not again:
            break
    if partial.exists() and partial.stat().st_size == 0:
        partial.unlink()  # nothing to go on from
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
            return True  # there is nothing to add; the digest tells whether the file is whole
        response.raise_for_status()
        if status != 206:  # a server that cannot resume sends the whole file
            start = 0
        total = start + int(response.headers.get("Content-Length", 0))
        # A bar on a terminal, a line now and then in a log.
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=None)
        with bar, partial.open("ab" if start else "wb") as file:
            last_line = time.monotonic()
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if bar.disable and time.monotonic() > last_line + PROGRESS:
                    last_line = time.monotonic()
                    print(f"{partial.name}: {file.tell()} of {total or '?'} bytes", flush=True)
                if file.tell() > SIZE_LIMIT:
                    break
    return start > 0


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong; the library's own may hold a URL with its password."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke off; the next attempt goes on from there"
    return type(error).__name__
