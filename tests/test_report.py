"""Stage 8: labels that were planted wrong rank first, by the archive's index; pictures."""

import csv
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from stages import params, report
from stages.paths import DATASET, DEV_INDEX, PROBABILITIES, REPORT
from tests.conftest import PROJECT
from tests.drawn import CLASS_NAMES, draw

ALL = params.load(PROJECT / "params.yaml")
PLANTED = {"dev": [3, 14], "test": [1, 59, 26]}
DEV = np.arange(7, 307, 10)  # which images of the training batches dev has
PICTURES = ("mistakes.png", "label_suspects.png", "reliability.png")


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
    dataset: dict[str, np.ndarray] = {"class_names": np.array(CLASS_NAMES)}
    found = {}
    for seed, (part, n) in enumerate({"dev": 30, "test": 60}.items()):
        labels = np.random.default_rng(seed).integers(0, 2, n, np.uint8)
        dataset[f"x_{part}"] = draw(labels, seed)
        found[part] = probabilities(dataset[f"x_{part}"])
        assert (found[part].argmax(axis=1) == labels).all()
        labels[PLANTED[part]] ^= 1
        dataset[f"y_{part}"] = labels
    for path in (DATASET, PROBABILITIES):
        path.parent.mkdir(parents=True)
    np.savez(DATASET, **dataset)  # type: ignore[arg-type]
    np.savez(PROBABILITIES, temperature=1.5, **found)  # type: ignore[arg-type]
    np.save(DEV_INDEX, DEV)


def test_planted_wrong_labels_are_the_suspects_by_the_archives_index() -> None:
    report.main(ALL)
    with (REPORT / "label_suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {("dev", DEV[i]) for i in PLANTED["dev"]} | {("test", i) for i in PLANTED["test"]}
    assert {(row["part"], int(row["index"])) for row in rows} == expected
    shares = [float(row["self_confidence"]) for row in rows]
    assert shares == sorted(shares)
    for row in rows:
        assert {row["label"], row["predicted"]} == {"red disc", "blue disc"}
        assert float(row["self_confidence"]) < 0.5 < float(row["confidence"])


def test_wrong_labels_rank_before_hard_images() -> None:
    """Rows: contradicted a little, agreed with, contradicted surely, agreed with though unsure."""
    rows = np.array([[0.45, 0.55], [0.9, 0.1], [0.02, 0.98], [0.51, 0.49]])
    assert report.label_suspects(rows, np.zeros(4, int)).tolist() == [2, 0]


def test_pictures_are_the_same_bytes_whatever_the_users_style(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report.main(ALL)
    first = {name: (REPORT / name).read_bytes() for name in PICTURES}
    monkeypatch.setitem(mpl.rcParams, "font.size", 20)
    report.main(ALL)
    assert {name: (REPORT / name).read_bytes() for name in PICTURES} == first
    # At most 1,000 pixels wide, to fit in what `dvc plots show` makes.
    assert imread(REPORT / "mistakes.png").shape == (1300, 900, 4)
    assert first["mistakes.png"] != first["label_suspects.png"]
