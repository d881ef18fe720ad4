"""`make seeds PRESET=fastest SEEDS=20`: a preset with several seeds, and their standard deviation.

A clone of the last commit runs the stages from `features` to `evaluate` once for each seed of
views, head and order; what is held out as dev stays the same. Each row is printed as it is known.
"""

import json
import statistics
import sys

from bench.clone import change, clone
from bench.preset import settings
from stages.paths import METRICS

SEEDED = ("features", "train_head", "fine_tune")


def main(preset: str, seeds: int) -> None:
    """Print accuracy on dev and test for the seeds 1, 2, ..., two at least, and their spread."""
    found: list[tuple[float, float]] = []
    with clone(settings(preset)) as project:
        for seed in range(1, seeds + 1):
            change(project.folder, {f"{section}.seed": seed for section in SEEDED})
            project.run("dvc", "repro", "evaluate")
            metrics = json.loads((project.folder / METRICS).read_text())
            found += [(metrics["dev_accuracy"], metrics["val_accuracy"])]
            print(f"seeds: {seed}: dev {found[-1][0]:.4f}, test {found[-1][1]:.4f}", flush=True)
    print(f"\n| {preset}, {seeds} seeds | min | median | max | standard deviation |\n|{'---|' * 5}")
    for name, values in zip(("dev", "test"), zip(*found, strict=True), strict=True):
        spread = statistics.stdev(values)
        row = (min(values), statistics.median(values), max(values), spread)
        print(f"| {name} | {' | '.join(f'{value:.4f}' for value in row)} |")


if __name__ == "__main__":
    preset, seeds = sys.argv[1:]
    if not seeds.isdecimal() or int(seeds) < 2:
        sys.exit(f"error: SEEDS = {seeds!r}: expected a whole number, 2 or more")
    main(preset, int(seeds))
