"""DVC as a process of this project's: one that ends when whoever started it does."""

import signal

from dvc import cli

from stages.transfer.interruption import end_with
from stages.transfer.signals import PARENT


def main(arguments: list[str]) -> int:
    """Run a DVC command; return its exit status."""
    end_with(PARENT)
    if hasattr(signal, "SIGTTOU"):
        # `stty tostop` stops what writes to a terminal from the background, where this may be.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    return cli.main(arguments)
