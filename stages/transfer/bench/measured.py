"""What was measured of accuracy against minutes: frontier.csv, read and checked.

It has a line for each named point that was measured, and for each other try ("attempt"). A field
that is not known stays empty.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml
from pydantic import BeforeValidator, Field

from stages.transfer.errors import PipelineError
from stages.transfer.points import POINTS

MEASURED = Path(__file__).with_name("frontier.csv")
ATTEMPT = "attempt"
# The settings that a point names, by the column that repeats them.
SETTINGS = {
    "px": "backbone.image_size",
    "views": "features.views",
    "epochs": "fine_tune.epochs",
    "cutmix_share": "fine_tune.cutmix_share",
    "label_smoothing": "fine_tune.label_smoothing",
    "cut": "backbone.cut",
}
NOT_NAMES = ("auto", "none", "all")  # of cut points

Count = Annotated[int, Field(ge=1)]
Accuracy = Annotated[float, Field(ge=0, le=1)]


def _empty(value: Any) -> Any:
    return None if value == "" else value


class Run(pydantic.BaseModel):
    """One line of frontier.csv: a point or an attempt, its settings, and what was measured.

    Attributes:
        point: a name in points.yaml, or "attempt".
        px: side in pixels that images are enlarged to.
        cut: the cut point by name, what `auto` took.
        views: copies of each training image.
        epochs: of fine-tuning.
        cutmix_share: share of the batches with CutMix, in [0, 1].
        label_smoothing: in [0, 1).
        minutes: from the archive on disk to the metrics; None if not known.
        dev: accuracy on dev, in [0, 1]; None if not known.
        val_accuracy: accuracy on the official test images, in [0, 1]; None if not known.
        runs: how many runs the numbers are the median of.
        note: anything else, for an attempt.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    point: Annotated[str, Field(min_length=1)]
    px: Count
    cut: Annotated[str, Field(min_length=1)]
    views: Count
    epochs: Annotated[int, Field(ge=0)]
    cutmix_share: Annotated[float, Field(ge=0, le=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    minutes: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, BeforeValidator(_empty)
    ]
    dev: Annotated[Accuracy | None, BeforeValidator(_empty)]
    val_accuracy: Annotated[Accuracy | None, BeforeValidator(_empty)]
    runs: Count
    note: str


def read(path: Path = MEASURED) -> list[Run]:
    """Read the measured runs, the named points first in the order of their minutes.

    Raises:
        PipelineError: a line is malformed, a name is unknown or there twice, or a point's settings
            are no longer those that were measured.
    """
    columns = list(Run.model_fields)
    points = yaml.safe_load(POINTS.read_text())
    runs: list[Run] = []
    try:
        lines = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path.name}: expected UTF-8: {error}") from error
    if lines.fieldnames != columns:
        raise PipelineError(f"{path.name}: expected the columns {','.join(columns)}")
    for fields in lines:
        place = f"{path.name}, line {lines.line_num}"
        if None in fields or None in fields.values():
            raise PipelineError(f"{place}: expected {len(columns)} fields; quote one with a comma")
        try:
            run = Run.model_validate(fields)
        except pydantic.ValidationError as error:
            fault = error.errors()[0]
            message = fault["msg"].replace("Input should be", "expected")
            key = fault["loc"][0]
            raise PipelineError(f"{place}: {key} = {fault['input']!r}: {message}") from None
        if run.point != ATTEMPT:
            _check_point(run, points, [other.point for other in runs], place)
        runs.append(run)
    return sorted(runs, key=lambda run: (run.point == ATTEMPT, run.minutes or float("inf")))


def _check_point(run: Run, points: dict[str, Any], seen: Sequence[str], place: str) -> None:
    if run.point not in points:
        known = ", ".join([*points, ATTEMPT])
        raise PipelineError(f"{place}: point = {run.point!r}: expected one of {known}")
    if run.point in seen:
        raise PipelineError(f"{place}: {run.point} is there twice: call one of them {ATTEMPT}")
    if set(points[run.point]) != set(SETTINGS.values()):
        raise PipelineError(f"{POINTS.name}: {run.point} names other settings than {MEASURED.name}")
    for column, key in SETTINGS.items():
        measured, named = getattr(run, column), points[run.point][key]
        free = column == "cut" and named in NOT_NAMES
        if measured != named and not free:
            raise PipelineError(
                f"{place}: {column} = {measured}, but {POINTS.name} has {named} for {run.point}: "
                f"measure it again, or call this line {ATTEMPT}"
            )
