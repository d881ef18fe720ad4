"""`make plot`: docs/frontier.svg from docs/experiments.csv, accuracy against minutes."""

import csv
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from stages import params
from stages.files import replacing

STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and searched for
    "svg.hashsalt": "frontier",  # else ids are random
    "font.sans-serif": ["DejaVu Sans"],  # in matplotlib itself: widths are the same everywhere
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
}


def draw(table: Path, gate: float, plot: Path) -> None:
    """Draw a table as SVG, deterministic; empty fields are not plotted."""
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["minutes"]]
    rows.sort(key=lambda row: float(row["minutes"]))
    others, scratch = ([r for r in rows if r["preset"] == kind] for kind in ("attempt", "scratch"))
    presets = [row for row in rows if row["preset"] not in ("attempt", "scratch")]
    minutes, dev, test = (numbers(presets, name) for name in ("minutes", "dev", "val_accuracy"))
    # "default" first: a user's own matplotlibrc changes nothing.
    with mpl.style.context(["default", STYLE]):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot(xscale="log", ylabel="accuracy")
        axes.set_xlabel("minutes on 2 cores, from the archive on disk to the metrics")
        tried = numbers(others, "minutes"), numbers(others, "dev")
        axes.plot(*tried, ".", c="darkgray", label="others that were tried, dev")
        axes.plot(minutes, dev, "o", c="tab:blue", mfc="white", label="presets, dev")
        axes.plot(minutes, test, "o-", c="tab:blue", label="presets, test images")
        untrained = numbers(scratch, "minutes"), numbers(scratch, "val_accuracy")
        axes.plot(*untrained, "s-", c="tab:orange", label="trained from scratch, test images")
        for row, x, y in zip(presets, minutes, np.fmax(dev, test), strict=True):
            axes.annotate(row["preset"], (x, y), (0, 7), textcoords="offset points", ha="center")
        axes.axhline(gate, c="tab:red", linestyle="--", zorder=1, label=f"gate {gate:g}")
        axes.margins(0.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend(loc="lower right")
        with replacing(plot) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None})


def numbers(rows: list[dict[str, str]], column: str) -> list[float]:
    """Return a column, NaN for what is not known."""
    return [float(row[column] or "nan") for row in rows]


if __name__ == "__main__":
    draw(Path("docs/experiments.csv"), params.load().gate.minimum, Path("docs/frontier.svg"))
