"""The tables of `make bench`: a row for each way, seconds as ratios to the first row's."""

import csv
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from stages.transfer.environment import processor_model, usable_processors
from stages.transfer.files import replacing

EPOCH_IMAGES = 45_000  # CIFAR-10's training images without dev
EPOCHS = 10  # of the usual solution
EPOCH_RANGE = (5, 50)  # where such solutions lie
NONE = "–"  # noqa: RUF001 - a dash, where a table has no value


class Row(NamedTuple):
    """One way to a classifier, and what it cost.

    Attributes:
        what: its name.
        seconds: to the target on dev; None if it was not reached.
        images_per_second: of each phase, by its name.
        peak_mib: peak of its anonymous memory, MiB.
        test_accuracy: on the official test images, in [0, 1]; None if it is not known.
        note: where the numbers come from, "measured" or "derived" first.
    """

    what: str
    seconds: float | None
    images_per_second: Mapping[str, float]
    peak_mib: float
    test_accuracy: float | None
    note: str


class Stage(NamedTuple):
    """One stage of the pipeline: its name, wall seconds, and peak anonymous memory in MiB."""

    name: str
    seconds: float
    peak_mib: float


def ratio(seconds: float | None, reference: float | None) -> float | None:
    """Return seconds as a multiple of the reference's, None if either is missing or zero."""
    return seconds / reference if seconds is not None and reference else None


def epochs_seconds(images_per_second: float, epochs: float) -> float:
    """Return what epochs of CIFAR-10's 45,000 images cost at this rate, in seconds."""
    return epochs * EPOCH_IMAGES / images_per_second


def derived_row(name: str, image_size: int, timed: Mapping[str, float], peak_mib: float) -> Row:
    """Return the row of a way of which only a slice was timed.

    Args:
        name: the application.
        image_size: side in pixels.
        timed: images, batch_size, images_per_second.
        peak_mib: peak of the anonymous memory, MiB.
    """
    rate = timed["images_per_second"]
    low, high = (epochs_seconds(rate, epochs) for epochs in EPOCH_RANGE)
    return Row(
        f"(3) {name}, {image_size} px, all of it frozen in the graph",
        epochs_seconds(rate, EPOCHS),
        {"head": rate},
        peak_mib,
        None,
        f"derived: {EPOCHS} epochs of {EPOCH_IMAGES:,} images, from {timed['images']} timed in "
        f"batches of {timed['batch_size']} ({EPOCH_RANGE[0]} to {EPOCH_RANGE[1]} epochs: "
        f"{low:,.0f} to {high:,.0f} s); whether they reach the target was not measured",
    )


def digits(value: float) -> str:
    """Return a positive number with at least two significant digits, and no exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def hardware() -> str:
    """Return the processor's model and the number of cores this process may use."""
    return f"{processor_model()}, {usable_processors()} cores"


def header(archive_digest: str, images: int | None) -> str:
    """Return what a table's numbers hold for: machine, data, libraries.

    Args:
        archive_digest: SHA-256 of the archive.
        images: to which each part of the data was cut down, None if it is whole.
    """
    versions = ", ".join(
        f"{name} {metadata.version(name.lower())}" for name in ("TensorFlow", "Keras")
    )
    data = f"archive sha256 {archive_digest}"
    if images:
        data += (
            f", the first {images} images of each part only: no result, a trial of the benchmark"
        )
    return f"{hardware()}; {data}; {versions}"


def cells(row: Row, reference: float | None) -> list[str]:
    """Return a row's fields as text; the ratio is to the reference's seconds."""
    multiple = ratio(row.seconds, reference)
    return [
        row.what,
        NONE if row.seconds is None else digits(row.seconds),
        NONE if multiple is None else digits(multiple),
        ", ".join(f"{phase} {digits(rate)}" for phase, rate in row.images_per_second.items()),
        f"{row.peak_mib:.0f}",
        NONE if row.test_accuracy is None else f"{row.test_accuracy:.4f}",
        row.note,
    ]


def columns(target: float) -> list[str]:
    """Return the names of the table's columns."""
    return [
        "what",
        f"seconds to {target:g} on dev",
        "ratio to (1)",
        "images per second",
        "peak memory, MiB",
        "test accuracy",
        "note",
    ]


def markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def write(
    folder: Path, heading: str, target: float, rows: Sequence[Row], stages: Sequence[Stage]
) -> None:
    """Write bench.csv (the rows) and bench.md (heading, rows, the pipeline's stages).

    Args:
        folder: where they go; it is made if it is missing.
        heading: from `header`.
        target: accuracy on dev, in [0, 1].
        rows: the pipeline's first; the ratios are to its seconds.
        stages: of the pipeline.
    """
    table = [cells(row, rows[0].seconds) for row in rows]
    per_stage = [[stage.name, f"{stage.seconds:.1f}", f"{stage.peak_mib:.0f}"] for stage in stages]
    with replacing(folder / "bench.csv") as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows([columns(target), *table])
    with replacing(folder / "bench.md") as partial:
        partial.write_text(
            f"{heading}\n\n{markdown(columns(target), table)}\n\n"
            f"{markdown(['stage of (1)', 'seconds', 'peak memory, MiB'], per_stage)}\n\n{EXPLAINED}"
        )


EXPLAINED = """\
Seconds of (1): wall time of one `dvc repro`, the archive on the disk, to the end of `fine_tune`:
the start of DVC and of each stage, measuring dev, and writing the model are in it; its images per
second are those of whole stages too. Its accuracy on dev is the saved model's, with whatever the
point averages at test time; that of (2) is of a single pass.

Seconds of (2): wall time from the start of its process, the imports and measuring dev after each
epoch included. It stops within an epoch if dev, measured each quarter off the clock, is there.
Seconds of (3): ten epochs of training a head on a frozen net with random weights, extrapolated. (2)
and (3) run without XLA and need not be deterministic; (2) freezes BatchNormalization layer by
layer, because Keras 3.15.1 ignores the guide's `training=False`.

Memory: the largest sum of anonymous memory (RssAnon) over a way's processes, sampled once a second;
of (1) with DVC's own. Mapped files and the page cache are left out. All ways ran one after the
other: what else the machine did counts for each.
"""
