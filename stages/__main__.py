"""Run one stage: `python -m stages download`. `python -m stages check` checks params.yaml alone."""

import sys

from stages.transfer.signals import end_at_once

if __name__ == "__main__":
    arguments = sys.argv[1:]
    interrupted = f"{' '.join(arguments)}: interrupted; `dvc repro` goes on"
    # Before anything else is imported, which takes long enough to press Ctrl-C in.
    end_at_once(interrupted)
    from stages.transfer import launcher

    sys.exit(launcher.main(arguments, interrupted))
