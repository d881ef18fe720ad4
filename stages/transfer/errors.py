"""The one exception that stands for a user's mistake."""


class PipelineError(Exception):
    """Something that the person at the keyboard can put right.

    The message is one line: the value received, what was expected, what to do next. The launcher
    (`stages/__main__.py`) prints it without a traceback and exits non-zero; any other exception is
    a defect of this project and keeps its traceback.
    """
