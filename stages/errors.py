"""The exception for user errors, and the reason that another exception gives."""

REASON_LIMIT = 300  # characters


class PipelineError(Exception):
    """An error that the user can correct.

    The message is one line: the value received, what was expected, what to do next. `__main__`
    prints it without a traceback and exits non-zero; any other exception is a defect of this
    project and keeps its traceback.
    """


def reason(error: Exception) -> str:
    """Return the first line of a library's exception, or its type if it has no message.

    It may quote a file, so characters that could control a terminal are left out.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "".join(filter(str.isprintable, line))[:REASON_LIMIT]
