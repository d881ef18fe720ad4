"""`make bench NAME=flowers`: the presets for photos beside Keras's guide, on data/images/flowers.

The guide's fine-tuning (bench/guide.py) gets the net, weights, image size, allocator and division
of the last preset, and the learning rate that is best on dev. All runs follow one another, each a
process of its own in a clone of the last commit. The table is printed and written to data/bench:
medians over the seeds (minimum to maximum), and the seconds as multiples of each preset's.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.clone import Clone, change, clone
from bench.preset import check_images, flat, is_kept, settings
from bench.seeds import SEEDED
from stages import params
from stages.files import write_csv
from stages.paths import METRICS, PHOTOS
from stages.runtime import description

TABLE = Path("data/bench/photos.csv")
PRESETS = ("photos-quick", "photos")
RATES = (1e-4, 3e-4)  # of the guide's fine-tuning; 1e-5, which it has, is too slow here


class Point(NamedTuple):
    """A model: how many seconds it took, its accuracy on dev and test."""

    seconds: float
    dev: float
    test: float


Curve = Sequence[Point]  # after each epoch
NEVER = Point(*[float("nan")] * 3)  # no epoch was finished


def main(
    name: str, presets: Sequence[str], seeds: Sequence[int], rates: Sequence[float], epochs: int
) -> None:
    """Run each preset and the guide once per seed; print what they need and reach."""
    runs = {preset: [pipeline(name, preset, seed) for seed in seeds] for preset in presets}
    rate, curves = guide(name, presets[-1], seeds, rates, epochs)
    what = f"Keras's guide, {settings(presets[-1])['backbone.image_size']} px, rate {rate:g}"
    seconds = {preset: np.median([run.seconds for run in runs[preset]]) for preset in presets}
    found = runs | {f"{what}: best epoch on dev": [best(curve) for curve in curves]}
    for preset, limit in seconds.items():
        found[f"{what}: in the time of {preset}"] = [within(curve, limit) for curve in curves]

    rows = [("solution", "seconds", "dev accuracy", "test accuracy", *(f"x {p}" for p in presets))]
    for solution, points in found.items():
        took, dev, test = np.transpose(points)
        multiples = [f"{np.median(took) / of_preset:.2f}" for of_preset in seconds.values()]
        rows += [(solution, f"{np.median(took):.0f}", spread(dev), spread(test), *multiples)]
    write_csv(TABLE, rows)
    header, *others = (f"| {' | '.join(row)} |" for row in rows)
    print(f"{json.dumps(description())}\n", header, f"|{'---|' * len(rows[0])}", *others, sep="\n")


def pipeline(name: str, preset: str, seed: int) -> Point:
    """Run a preset, weights on disk; the seconds are from the images on disk to the model."""
    with on_photos(name, preset) as project:
        reseed(project, seed)
        seconds, _ = project.run("dvc", "repro", "fine_tune")
        project.run("dvc", "repro", "evaluate")
        found = json.loads((project.folder / METRICS).read_text())
    return Point(seconds, found["dev_accuracy"], found["val_accuracy"])


def guide(
    name: str, preset: str, seeds: Sequence[int], rates: Sequence[float], epochs: int
) -> tuple[float, list[Curve]]:
    """Return the learning rate that is best with the first seed, and the curve of each seed."""
    with on_photos(name, preset) as project:
        project.run("dvc", "repro", "preprocess")

        def run(rate: float, seed: int) -> Curve:
            reseed(project, seed)
            result = project.folder / "result.json"
            project.run("bench.guide", str(result), "photos", str(rate), str(epochs))
            return [Point(*values) for values in json.loads(result.read_text())]

        first, *others = seeds
        tried = {rate: run(rate, first) for rate in rates}
        rate = max(rates, key=lambda rate: (best(tried[rate]).dev, -best(tried[rate]).seconds))
        return rate, [tried[rate], *(run(rate, seed) for seed in others)]


@contextmanager
def on_photos(name: str, preset: str) -> Iterator[Clone]:
    """Clone the project, with photos, a preset, the user's settings that `is_kept`, and weights."""
    here = flat(params.load().model_dump())
    own = {key: value for key, value in here.items() if is_kept(key)}
    with clone(settings(preset) | own | {"data.name": name}) as project:
        (project.folder / PHOTOS).mkdir(parents=True, exist_ok=True)
        (project.folder / PHOTOS / name).symlink_to((PHOTOS / name).resolve())
        project.run("dvc", "repro", "backbone")
        yield project


def reseed(project: Clone, seed: int) -> None:
    """Change the seeds of what is trained; what is held out stays the same."""
    change(project.folder, {f"{section}.seed": seed for section in SEEDED})


def best(curve: Curve) -> Point:
    """Return the first of the epochs with the highest accuracy on dev."""
    return max(curve, key=lambda point: point.dev)


def within(curve: Curve, seconds: float) -> Point:
    """Return the last epoch that was finished by then."""
    return max((point for point in curve if point.seconds <= seconds), default=NEVER)


def spread(values: npt.NDArray) -> str:
    """Return the median (minimum to maximum), NaN if a value is NaN."""
    return f"{np.median(values):.4f} ({values.min():.4f} to {values.max():.4f})"


if __name__ == "__main__":
    (name,) = sys.argv[1:]
    check_images(name)
    main(name, PRESETS, seeds=(1, 2, 3), rates=RATES, epochs=8)
