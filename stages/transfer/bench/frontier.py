"""`make frontier`: the README's plot and tables of accuracy against minutes, from one CSV file.

frontier.csv has a line for each named point that was measured, and for each other try ("attempt").
A field that is not known stays empty. This draws .github/frontier.svg, the same bytes each time,
and prints the tables.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import matplotlib.style
import pydantic
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator
from pydantic import BeforeValidator, Field

from stages.transfer.bench.comparison import NONE, markdown
from stages.transfer.errors import PipelineError
from stages.transfer.files import replacing
from stages.transfer.params import load
from stages.transfer.points import POINTS

MEASURED = Path(__file__).with_name("frontier.csv")
PLOT = Path(".github/frontier.svg")
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
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and searched for
    "svg.hashsalt": "frontier",  # else ids are random
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # in matplotlib itself: widths are the same everywhere
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MARGIN = 1.6  # left and right of the points, as a factor of minutes
POINT_COLOUR, ATTEMPT_COLOUR, GATE_COLOUR = "#0b5cad", "#9a9a9a", "#b3261e"

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


def number(value: float | None, digits: int) -> str:
    """Return a number with so many decimals, or a dash for None."""
    return NONE if value is None else f"{value:.{digits}f}"


def cells(run: Run) -> list[str]:
    """Return what points and attempts have in common in the tables, as text."""
    return [
        str(run.px),
        f"`{run.cut}`",
        f"{run.views}, {run.epochs}",
        f"{run.cutmix_share:g}" if run.cutmix_share else NONE,
        f"{run.label_smoothing:g}" if run.label_smoothing else NONE,
        number(run.minutes, 1),
        number(run.dev, 3),
        number(run.val_accuracy, 4),
        str(run.runs),
    ]


def tables(runs: Sequence[Run]) -> list[str]:
    """Return a Markdown table of the named points and, if there are any, one of the attempts."""
    columns = ["px", "cut", "views, epochs", "CutMix", "smoothing", "minutes", "dev"]
    columns += ["`val_accuracy`", "runs"]
    points = [[f"`{run.point}`", *cells(run)] for run in runs if run.point != ATTEMPT]
    attempts = [[*cells(run), run.note] for run in runs if run.point == ATTEMPT]
    found = [markdown(["point", *columns], points)]
    if attempts:
        found.append(markdown([*columns, "what else"], attempts))
    return found


def draw(runs: Sequence[Run], gate: float, path: Path) -> None:
    """Draw accuracy against minutes as SVG. What has no minutes or no accuracy is left out.

    Args:
        runs: from `read`.
        gate: the accuracy that the pipeline has to reach, in [0, 1].
        path: of the SVG; the same runs give the same bytes.
    """
    timed = [run for run in runs if run.minutes and (run.dev or run.val_accuracy)]
    points = [run for run in timed if run.point != ATTEMPT]
    shown = [
        ("attempts, dev", [(run.minutes, run.dev) for run in timed if run.point == ATTEMPT]),
        ("points, dev", [(run.minutes, run.dev) for run in points]),
        ("points, official test images", [(run.minutes, run.val_accuracy) for run in points]),
    ]
    looks: list[dict[str, Any]] = [
        {"marker": ".", "linestyle": "", "color": ATTEMPT_COLOUR, "markersize": 5},
        {"marker": "o", "linestyle": "", "color": POINT_COLOUR, "markerfacecolor": "white"},
        {"marker": "o", "linestyle": "-", "color": POINT_COLOUR, "linewidth": 1},
    ]
    # "default" first: a user's own matplotlibrc changes nothing.
    with mpl.style.context(["default", STYLE]):
        figure = Figure(figsize=(7, 3.6))
        axes = figure.add_axes((0.09, 0.14, 0.87, 0.82))
        for (label, places), look in zip(shown, looks, strict=True):
            known = [place for place in places if None not in place]
            if known:
                axes.plot(*zip(*known, strict=True), label=label, **look)
        axes.axhline(gate, color=GATE_COLOUR, linewidth=1, linestyle="--", zorder=1)
        axes.margins(y=0.15)
        axes.set_xscale("log")
        if minutes := [run.minutes for run in timed if run.minutes]:
            axes.set_xlim(min(minutes) / MARGIN, max(minutes) * MARGIN)
        for run in points:
            if run.minutes and run.val_accuracy:
                axes.annotate(
                    run.point,
                    (run.minutes, max(run.val_accuracy, run.dev or 0)),
                    (0, 7),
                    textcoords="offset points",
                    ha="center",
                )
        axes.annotate(
            f"gate {gate:g}",
            (1, gate),
            (0, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=GATE_COLOUR,
        )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("minutes on 2 cores, from the archive on disk to the metrics")
        axes.set_ylabel("accuracy")
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        if timed:
            axes.legend(loc="upper left", frameon=False, fontsize=9)
        with replacing(path) as partial:
            figure.savefig(
                partial, format="svg", metadata={"Date": None, "Creator": None, "Title": "frontier"}
            )


def main() -> None:
    """Draw the plot of the committed runs, print the tables."""
    runs = read()
    draw(runs, load().gate.minimum, PLOT)
    print("\n\n".join(tables(runs)))
    print(f"\n{PLOT} is drawn; the README's tables have to be these", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, no permission
        sys.exit(f"error: {' '.join(str(error).split())}")
