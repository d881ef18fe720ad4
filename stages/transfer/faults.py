"""Faults: what the operating system refuses, in one line that says what to do."""

import errno

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def line(error: OSError, under_dvc: bool) -> str:
    """Say in one line which path it is about, the reason, and what to do next.

    Args:
        error: what a stage has met.
        under_dvc: whether DVC runs the stage. It has removed the stage's outputs before, and brings
            back those that are in its cache.
    """
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is missing; run `dvc repro`"
    where = error.filename or "standard output or a temporary file"
    reason = " ".join((error.strerror or str(error)).split())
    if error.errno in FULL:
        remedy = "free some space, then run `dvc repro`"
    elif error.errno in FORBIDDEN:
        remedy = "let this user write there, then run `dvc repro`"
    else:
        remedy = "put that right, then run `dvc repro`"
    if under_dvc:
        remedy += "; `dvc checkout` brings back the outputs that DVC removed before this stage"
    return f"{where}: {reason}; {remedy}"
