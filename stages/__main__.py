"""Run one stage: `python -m stages download`. `python -m stages check` checks params.yaml alone."""

import sys

from stages.transfer import signals

if __name__ == "__main__":
    arguments = sys.argv[1:]
    interrupted = f"{' '.join(arguments)}: interrupted; `dvc repro` goes on"
    # Before anything else is imported, which takes long enough to press Ctrl-C in.
    signals.end_at_once(interrupted)
    from stages.transfer import launcher

    signals.leave(launcher.main(arguments, interrupted))
