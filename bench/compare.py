"""`make bench`: this pipeline beside the two workflows of Keras's guide to transfer learning.

The three run one after the other in a clone of the last commit, each as a process of its own, with
the same net, weights and memory allocator. The table is printed and written to data/bench.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.clone import clone
from bench.preset import settings
from stages.files import digest, replacing
from stages.paths import ARCHIVE, ENVIRONMENT, METRICS

TABLE = Path("data/bench/bench.csv")
COLUMNS = ("solution", "seconds", "dev accuracy", "peak memory, MiB", "note")
TRAIN_IMAGES = 45_000  # CIFAR-10's training images without dev


def main(values: Mapping[str, Any], target: float, images: int) -> None:
    """Run the three: fine-tuning up to an accuracy on dev, feature extraction of some images."""
    with clone(values) as project:
        result = project.folder / "result.json"
        project.run("dvc", "repro", "download", "backbone")
        seconds, peak = project.run("dvc", "repro", "fine_tune")
        project.run("dvc", "repro", "evaluate")
        dev = json.loads((project.folder / METRICS).read_text())["dev_accuracy"]
        note = "from archive and weights on disk to cifar10.h5; memory includes mapped files"
        rows = [("this pipeline", seconds, dev, peak, note)]

        seconds, peak = project.run("bench.guide", str(result), "fine_tuning", str(target))
        found = json.loads(result.read_text())
        seconds -= found["measuring"]
        note = f"stops at {target:g} on dev; here after {found['epochs']:.2f} epochs of fine-tuning"
        rows += [("Keras's guide, fine-tuning", seconds, found["dev"], peak, note)]

        _, peak = project.run("bench.guide", str(result), "feature_extraction", str(images))
        found = json.loads(result.read_text())
        note = f"{TRAIN_IMAGES:,} images at {found['rate']:.1f} a second, from {found['images']}"
        what = f"Keras's guide, feature extraction at {found['px']} px"
        rows += [(what, TRAIN_IMAGES / found["rate"], found["dev"], peak, note)]

        about = json.loads((project.folder / ENVIRONMENT).read_text())
        about["archive"] = digest(project.folder / ARCHIVE)
    with replacing(TABLE) as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    print(f"{json.dumps(about)}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for what, seconds, dev, peak, note in rows:
        print(f"| {what} | {seconds:.0f} | {dev:.4f} | {peak:.0f} | {note} |")


if __name__ == "__main__":
    main(settings("fastest"), target=0.87, images=2_000)
