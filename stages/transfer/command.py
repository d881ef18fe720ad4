"""What `make demo`, `make bench` and `make verify` start: `python -m stages.transfer.command demo`.

Each of them imports for a second or two. Ctrl-C in the midst of that ends it in a line too, as does
every fault. So this module uses the standard library only until signals are in hand.
"""

import contextlib
import importlib
import sys
from typing import NamedTuple

from stages.transfer import interruption
from stages.transfer.errors import PipelineError


class Command(NamedTuple):
    """A command of `make`, other than the pipeline's own.

    Attributes:
        module: its `main` takes the arguments.
        leaves: what is left of it when it is interrupted.
    """

    module: str
    leaves: str


COMMANDS = {
    "demo": Command("stages.transfer.demo", "nothing is left of it"),
    "bench": Command("stages.transfer.bench.side_by_side", "what is in data/bench stays"),
    "verify": Command(
        "stages.transfer.verification.twice", "nothing is left of it but what --keep names"
    ),
}


def main(name: str, arguments: list[str]) -> int:
    """Run a command; say in one line why it failed, or was interrupted.

    Returns:
        The exit status.
    """
    command = COMMANDS[name]
    try:
        with interruption.ending_on_signals():
            with interruption.held_back():
                module = importlib.import_module(command.module)
            module.main(arguments)
            return 0
    except (PipelineError, OSError) as error:  # OSError: a full disk, no permission
        line, status = f"error: {' '.join(str(error).split())}", 1
    except KeyboardInterrupt as error:
        line, status = f"{name}: interrupted; {command.leaves}", interruption.status(error)
    with contextlib.suppress(OSError):  # the terminal may have gone
        print(line, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
