"""`make frontier`: the README's plot and tables of accuracy against minutes, from one CSV file.

This draws .github/frontier.svg, the same bytes each time, and prints the tables; `measured` reads
the file.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, NullLocator

from stages.transfer.bench.comparison import NONE, markdown
from stages.transfer.bench.measured import ATTEMPT, Run, read
from stages.transfer.errors import PipelineError
from stages.transfer.files import replacing
from stages.transfer.params import load

PLOT = Path(".github/frontier.svg")
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
