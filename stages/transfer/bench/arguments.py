"""Command lines whose faults are a line each, as every user's mistake is in this project."""

import argparse
from typing import NoReturn

from stages.transfer.errors import PipelineError


class Parser(argparse.ArgumentParser):
    """Arguments whose faults are a line each."""

    def error(self, message: str) -> NoReturn:
        """Raise PipelineError instead of printing the usage."""
        raise PipelineError(f"{message}; --help lists what is known")


def count(text: str) -> int:
    """Read an argument that is a whole number from 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def share(text: str) -> float:
    """Read an argument that is a number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 1")
    return value
