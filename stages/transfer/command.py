"""Commands of `make`: `python -m stages.transfer.command demo`, and so on.

Most of them import for a second or two. Ctrl-C in the midst of that ends it in a line too, as does
every fault. So this module imports little until signals are in hand.

They run DVC and the benchmark's rivals in turn, as commands of this module too: DVC's own start is
a second in which Ctrl-C is a traceback.
"""

import contextlib
import importlib
import os
import sys

from stages.transfer import signals
from stages.transfer.errors import PipelineError

# A command's module, whose `main` takes the arguments, and what is said of it when interrupted.
COMMANDS = {
    "demo": ("stages.transfer.demo", "demo: interrupted; nothing is left of it"),
    "bench": (
        "stages.transfer.bench.side_by_side",
        "bench: interrupted; what is in data/bench stays",
    ),
    "verify": (
        "stages.transfer.verification.twice",
        "verify: interrupted; nothing is left of it but what --keep names",
    ),
    "backbones": ("stages.transfer.applications", "backbones: interrupted"),
    "point": ("stages.transfer.points", "point: interrupted"),
    # Who runs these says what was interrupted.
    "dvc": ("stages.transfer.dvc_process", ""),
    "rival": ("stages.transfer.bench.rivals", ""),
}


def main(name: str, arguments: list[str]) -> int:
    """Run a command; say in one line why it failed, or was interrupted.

    Returns:
        The exit status.
    """
    module, line = COMMANDS[name]
    signals.end_at_once(line)
    status = 1
    try:
        with signals.ending_on_signals():
            with signals.ending_at_once(line):
                command = importlib.import_module(module)
            status = command.main(arguments) or 0
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141  # 128 + SIGPIPE, which Windows does not have
    except (PipelineError, OSError) as error:  # OSError: a full disk, no permission
        line = f"error: {' '.join(str(error).split())}"
    except KeyboardInterrupt as error:
        status = signals.status(error)
    with contextlib.suppress(OSError):  # the terminal may have gone
        print(line, end="\n" if line else "", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    signals.leave(main(sys.argv[1], sys.argv[2:]))
