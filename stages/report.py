"""Stage 8: plot misclassified images, calibration and likely label errors.

Nothing is fitted here. `dvc plots show` shows the pictures beside the other plots.
"""

import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from stages.calibration import BINS, ece, reliability, scale
from stages.data.dataset import DataSet
from stages.data.photos import printable
from stages.files import read_arrays, replacing, write_csv
from stages.params import Params
from stages.paths import PROBABILITIES, REPORT

ROWS, COLUMNS = 8, 5  # of images in a picture
END = 22  # last characters of a name, as many as fit
warnings.filterwarnings("ignore", "Glyph")  # an emoji in a name is drawn as a box


def main(params: Params) -> None:
    """Write four pictures, and label_suspects.csv, which names images as preprocess does."""
    dev, test, temperature = read_arrays(PROBABILITIES, "dev", "test", "temperature")
    data = DataSet()
    names, y_test = data.class_names, data.labels("test")
    part = np.repeat(["dev", "test"], [len(dev), len(test)])
    labels, files = data.labels("dev", "test"), data.files("dev", "test")
    images = data.images("dev", "test")
    probabilities = np.concatenate([dev, test])
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    suspects = label_suspects(probabilities, labels)
    mistakes = suspects[np.argsort(-confidence[suspects], kind="stable")]
    mistakes = mistakes[part[mistakes] == "test"]

    rows = [("part", "file", "label", "predicted", "self_confidence", "confidence")]
    for i in suspects:
        numbers = (f"{p:.6f}" for p in (probabilities[i, labels[i]], confidence[i]))
        rows.append((part[i], files[i], names[labels[i]], names[predicted[i]], *numbers))
    write_csv(REPORT / "label_suspects.csv", rows)
    with mpl.style.context("default"):  # a user's own matplotlibrc changes nothing
        for name, ranked in (("mistakes", mistakes), ("label_suspects", suspects)):
            chosen = ranked[: ROWS * COLUMNS]
            captions = [
                f"{printable(files[i])[-END:]}\n{names[labels[i]][-END:]}\n"
                f"{confidence[i]:.3f} {names[predicted[i]][-END:]}"
                for i in chosen
            ]
            save(drawn_images(images[chosen], captions), REPORT / f"{name}.png")
        confusion = confusion_matrix(y_test, test.argmax(axis=1), [n[-END:] for n in names])
        save(confusion, REPORT / "confusion.png")
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
    rows = max(1, -(-len(captions) // COLUMNS))
    figure = Figure(figsize=(9, 1.7 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, image, caption in zip(grid, images, captions, strict=False):
        axes.imshow(image)
        axes.set_title(caption, fontsize=7.5, parse_math=False)
    return figure


def confusion_matrix(labels: npt.NDArray, predicted: npt.NDArray, names: list[str]) -> Figure:
    """Draw which fraction of each class (row) was predicted as which; with names if up to 200."""
    classes = len(names)
    count = np.zeros((classes, classes), int)
    np.add.at(count, (labels, predicted), 1)
    fraction = count / count.sum(axis=1, keepdims=True).clip(1)
    side = min(max(8, 2 + 0.17 * classes), 36)  # inches, of 100 pixels
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(fraction, cmap="Blues", norm=PowerNorm(0.5, 0, 1))  # shows rare errors
    axes.set(xlabel="predicted", ylabel="label", title=f"{len(labels):,} test images")
    if classes <= 200:
        axes.set_xticks(range(classes), names, fontsize=8, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=8, parse_math=False)
    if classes <= 20:
        for row, column in zip(*np.nonzero(count), strict=True):
            style = {"color": "white" if fraction[row, column] > 0.5 else "black", "fontsize": 8}
            axes.text(column, row, str(count[row, column]), style, ha="center", va="center")
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
