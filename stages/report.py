"""Stage 8: plot misclassified images, calibration and likely label errors.

Nothing is fitted here. `dvc plots show` shows the pictures beside the other plots.
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from stages.calibration import BINS, ece, reliability, scale
from stages.files import read_arrays, reading, replacing
from stages.paths import DATASET, DEV_INDEX, PROBABILITIES, REPORT

if TYPE_CHECKING:
    from stages.params import Params

ROWS, COLUMNS = 8, 5  # of images in a picture


def main(params: "Params") -> None:
    """Write three pictures, and label_suspects.csv.

    Its `index` counts from 0 in the archive's order: in the test batch for "test", in the five
    training batches, one after the other, for "dev".
    """
    dev, test, temperature = read_arrays(PROBABILITIES, "dev", "test", "temperature")
    x_dev, y_dev, x_test, y_test, names = read_arrays(
        DATASET, "x_dev", "y_dev", "x_test", "y_test", "class_names"
    )
    with reading(DEV_INDEX):
        index = np.concatenate([np.load(DEV_INDEX), np.arange(len(test))])
    part = np.repeat(["dev", "test"], [len(dev), len(test)])
    images, labels = np.concatenate([x_dev, x_test]), np.concatenate([y_dev, y_test])
    probabilities = np.concatenate([dev, test])
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    suspects = label_suspects(probabilities, labels)
    mistakes = suspects[np.argsort(-confidence[suspects], kind="stable")]
    mistakes = mistakes[part[mistakes] == "test"]

    with replacing(REPORT / "label_suspects.csv") as partial, partial.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["part", "index", "label", "predicted", "self_confidence", "confidence"])
        for i in suspects:
            numbers = (f"{p:.6f}" for p in (probabilities[i, labels[i]], confidence[i]))
            table.writerow([part[i], index[i], names[labels[i]], names[predicted[i]], *numbers])
    with mpl.style.context("default"):  # a user's own matplotlibrc changes nothing
        for name, ranked in (("mistakes", mistakes), ("label_suspects", suspects)):
            chosen = ranked[: ROWS * COLUMNS]
            captions = [
                f"{part[i]} {index[i]}: {names[labels[i]]}\n"
                f"predicted {names[predicted[i]]} {confidence[i]:.3f}"
                for i in chosen
            ]
            save(drawn_images(images[chosen], captions), REPORT / f"{name}.png")
        save(reliability_diagram(test, y_test, float(temperature)), REPORT / "reliability.png")
    print(
        f"{REPORT}: {len(mistakes)} misclassified test images, {len(suspects)} likely label errors"
    )


def label_suspects(probabilities: npt.NDArray, labels: npt.NDArray) -> npt.NDArray[np.intp]:
    """Return likely label errors, lowest self-confidence first.

    Self-confidence is the probability of the given label (Northcutt et al. 2021, Confident
    Learning, https://arxiv.org/abs/1911.00068).

    Candidates for manual review: an unusual image, or one that is hard for this model, ranks as
    high as one with a wrong label. Training images are excluded, because the model was fitted to
    them; results on dev are biased, because the settings were chosen on it.

    Returns:
        Indices of those labels (n,) that differ from the predicted class: (m,), m <= n.
    """
    self_confidence = probabilities[np.arange(len(labels)), labels]
    ranked = np.argsort(self_confidence, kind="stable")
    return ranked[probabilities.argmax(axis=1)[ranked] != labels[ranked]]


def drawn_images(images: npt.NDArray, captions: list[str]) -> Figure:
    """Draw up to ROWS * COLUMNS images, uint8 (n, height, width, 3), each under its caption."""
    figure = Figure(figsize=(9, 13), layout="constrained")
    grid = figure.subplots(ROWS, COLUMNS).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, image, caption in zip(grid, images, captions, strict=False):
        axes.imshow(image)
        axes.set_title(caption, fontsize=8.5)
    return figure


def reliability_diagram(test: npt.NDArray, y_test: npt.NDArray, temperature: float) -> Figure:
    """Draw accuracy against confidence on test, uncalibrated and with temperature scaling."""
    figure = Figure(figsize=(6, 7), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], "--", c="gray", label="calibrated")
    for name, probabilities in (
        ("as saved", test),
        (f"temperature {temperature:.2f}", scale(test, temperature)),
    ):
        label = f"{name}: ECE {ece(probabilities, y_test):.4f}"
        count, *sums = reliability(probabilities, y_test)
        x, y = (total[count > 0] / count[count > 0] for total in sums)
        above.plot(x, y, "o-", label=label)
        below.stairs(count, np.linspace(0, 1, BINS + 1))
    above.set(ylabel="accuracy", title=f"{len(test):,} test images in {BINS} bins")
    above.legend()
    below.set(xlabel="confidence", ylabel="images", yscale="log")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Save a picture without varying metadata."""
    with replacing(path) as partial:
        figure.savefig(partial, metadata={"Software": None})
