"""Stage 8: labels that were planted wrong rank first, by the file's name; pictures."""

import csv
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from stages import report
from stages.paths import PROBABILITIES, REPORT
from tests.conftest import ALL
from tests.drawn import draw, write_data_set

PLANTED = {"dev": [3, 14], "test": [1, 59, 26]}
FILES = {
    "dev": [f"data_batch_1/{i}" for i in range(7, 307, 10)],
    "test": [f"test_batch/{i}" for i in range(60)],
}
PICTURES = ("mistakes.png", "label_suspects.png", "confusion.png", "reliability.png")


def probabilities(images: np.ndarray) -> np.ndarray:
    """Tell a red disc from a blue one by how many pixels differ in that from the ground."""
    redness = images[..., 0].astype(int) - images[..., 2]
    redness -= np.median(redness, axis=(1, 2), keepdims=True).astype(int)
    more_blue = (redness < -60).sum(axis=(1, 2)) - (redness > 60).sum(axis=(1, 2))
    of_red = 1 / (1 + np.exp(more_blue / 20))
    columns = [of_red, 1 - of_red] + [np.zeros(len(images))] * 8
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the current folder: 30 images of dev and 60 of test, five of them with a wrong label."""
    monkeypatch.chdir(tmp_path)
    images, all_labels, found = [], [], {}
    for seed, (part, files) in enumerate(FILES.items()):
        labels = np.random.default_rng(seed).integers(0, 2, len(files), np.uint8)
        images.append(draw(labels, seed))
        found[part] = probabilities(images[-1])
        assert (found[part].argmax(axis=1) == labels).all()
        labels[PLANTED[part]] ^= 1
        all_labels.append(labels)
    # Stored in another order than that of the parts.
    stored = np.random.default_rng(2).permutation(90)
    place = np.argsort(stored)
    write_data_set(
        np.concatenate(images)[stored],
        np.concatenate(all_labels)[stored],
        np.array([*FILES["dev"], *FILES["test"]])[stored].tolist(),
        dev=place[:30],
        test=place[30:],
    )
    PROBABILITIES.parent.mkdir(parents=True)
    np.savez(PROBABILITIES, temperature=1.5, **found)  # type: ignore[arg-type]


def test_planted_wrong_labels_are_the_suspects_by_the_files_name() -> None:
    report.main(ALL)
    with (REPORT / "label_suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {(part, FILES[part][i]) for part, planted in PLANTED.items() for i in planted}
    assert {(row["part"], row["file"]) for row in rows} == expected
    shares = [float(row["self_confidence"]) for row in rows]
    assert shares == sorted(shares)
    for row in rows:
        assert {row["label"], row["predicted"]} == {"red disc", "blue disc"}
        assert float(row["self_confidence"]) < 0.5 < float(row["confidence"])


def test_wrong_labels_rank_before_hard_images() -> None:
    """Rows: contradicted a little, agreed with, contradicted surely, agreed with though unsure."""
    rows = np.array([[0.45, 0.55], [0.9, 0.1], [0.02, 0.98], [0.51, 0.49]])
    assert report.label_suspects(rows, np.zeros(4, int)).tolist() == [2, 0]


def test_the_confusion_matrix_counts_label_against_prediction() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 2]), np.array([0, 0, 0, 1, 1])
    (axes,) = report.confusion_matrix(labels, predicted, ["a", "b", "c"]).axes
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), [[0.75, 0.25, 0], [0, 0, 0], [0, 1, 0]])
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "3", (1, 0): "1", (1, 2): "1"}  # x is what was predicted
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]


def test_pictures_are_the_same_bytes_whatever_the_users_style(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report.main(ALL)
    first = {name: (REPORT / name).read_bytes() for name in PICTURES}
    monkeypatch.setitem(mpl.rcParams, "font.size", 20)
    report.main(ALL)
    assert {name: (REPORT / name).read_bytes() for name in PICTURES} == first
    # At most 1,000 pixels wide, to fit in what `dvc plots show` makes.
    assert imread(REPORT / "mistakes.png").shape == (170, 900, 4)  # one row of images
    assert imread(REPORT / "confusion.png").shape == (800, 800, 4)
    assert first["mistakes.png"] != first["label_suspects.png"]

    with np.load(PROBABILITIES) as file:
        arrays = dict(file)
    arrays["test"][0] = arrays["test"][0, ::-1]
    np.savez(PROBABILITIES, **arrays)
    report.main(ALL)
    assert (REPORT / "confusion.png").read_bytes() != first["confusion.png"]
