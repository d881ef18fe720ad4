"""Class folders of one's own through the whole pipeline, under real DVC."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from stages.__main__ import STAGES
from stages.data.photos import printable
from stages.paths import ARCHIVE
from tests.conftest import PROJECT, Project, one_line
from tests.drawn import CLASS_NAMES, draw

CLASSES = ["a, \"b\" 'c'", "caf\u00e9 $x", "red disc", "tests"]  # sorted; .dvcignore has `tests`
PHOTOS = Path("data/images/shapes")
IMAGES = 15  # of a class


@pytest.fixture(scope="module")
def own(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished project that was then given other images. Do not change it: copy it."""
    project = finished.copy(tmp_path_factory.mktemp("own"))
    shutil.copy(PROJECT / "predict.py", project.folder)
    labels = np.repeat(np.arange(len(CLASSES)), IMAGES)
    for number, image in enumerate(draw(labels, seed=7)):
        path = project.folder / PHOTOS / CLASSES[labels[number]] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    project.set(
        data={"name": "shapes", "image_size": 32},
        features={"views": 2, "flip": False, "zoom": 0.2},
        fine_tune={"epochs": 1},
    )
    assert project.repro() == [stage for stage in STAGES if stage != "backbone"]
    return project


def layers(model: Path) -> set[str]:
    with h5py.File(model) as file:
        config = json.loads(file.attrs["model_config"])
    return {layer["config"]["name"] for layer in config["config"]["layers"]}


def test_a_second_model_is_measured_and_described(own: Project, finished: Project) -> None:
    assert own.repro() == []
    earlier = (finished.folder / "cifar10.h5").read_bytes()
    assert (own.folder / "cifar10.h5").read_bytes() == earlier
    assert (own.folder / "shapes.h5").exists()
    metrics = json.loads((own.folder / "metrics.json").read_text())
    assert 0 <= metrics["val_balanced_accuracy"] <= 1
    card = (own.folder / "MODEL_CARD.md").read_text()
    assert "shapes.h5" in card
    assert str(PHOTOS) in card
    assert "CIFAR" not in card
    assert all(name in card for name in CLASSES)
    checked = own.stage("check")
    assert checked.returncode == 0, checked.stderr


def test_likely_label_errors_are_named_as_the_files_are(own: Project) -> None:
    with (own.folder / "data/report/label_suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert (own.folder / PHOTOS / row["file"]).is_file()
        assert row["label"] == Path(row["file"]).parent.name
        assert row["predicted"] in set(CLASSES) - {row["label"]}


def test_without_flip_the_model_has_no_branch_for_the_mirror_image(own: Project) -> None:
    assert "exchange_columns" in layers(own.folder / "cifar10.h5")
    assert "exchange_columns" not in layers(own.folder / "shapes.h5")


def test_predict_names_the_folders_and_can_use_the_other_model(own: Project) -> None:
    photo = str(PHOTOS / CLASSES[0] / "0.png")
    for arguments, classes in (([], CLASSES), (["--model", "cifar10.h5"], CLASS_NAMES)):
        done = own.run("python3", "predict.py", "--json", *arguments, photo)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)[photo].keys() == set(classes)


def test_back_to_cifar10_all_is_as_before(own: Project, finished: Project, tmp_path: Path) -> None:
    """From the cache; evaluate has outputs that are in Git instead, gate has none."""
    project = own.copy(tmp_path)
    shutil.copy(finished.folder / "params.yaml", project.folder)
    assert set(project.repro()) <= {"evaluate", "gate"}
    assert project.outputs() == finished.outputs()
    for name in ("MODEL_CARD.md", "metrics.json", "data/report/mistakes.png"):
        assert (project.folder / name).read_bytes() == (finished.folder / name).read_bytes()
    assert (project.folder / "shapes.h5").exists()


@pytest.mark.parametrize("label", CLASSES[2:])
def test_a_changed_photo_of_any_class_reruns_preprocess(
    label: str, own: Project, tmp_path: Path
) -> None:
    project = own.copy(tmp_path)
    next((project.folder / PHOTOS / label).iterdir()).unlink()
    assert project.repro("--dry") == ["preprocess"]


def test_a_link_or_an_archive_instead_changes_nothing(own: Project, tmp_path: Path) -> None:
    project, elsewhere = own.copy(tmp_path), tmp_path / "elsewhere"
    photos = project.folder / PHOTOS
    photos.rename(elsewhere)
    photos.symlink_to(elsewhere)
    assert project.repro() == []
    photos.unlink()
    shutil.make_archive(str(photos / "photos"), "gztar", elsewhere)
    assert project.repro() == ["preprocess"]
    assert {**own.outputs(), **project.outputs()} == own.outputs()


def test_only_activations_of_new_photos_are_computed(own: Project, tmp_path: Path) -> None:
    """Of a photo in another class, or a removed one, none; the bytes are those of a whole run.

    Rows that are damaged in the cache are not copied.
    """
    project = own.copy(tmp_path)
    photos = project.folder / PHOTOS
    for number, image in enumerate(draw(np.zeros(20, int), seed=8)):
        Image.fromarray(image).save(photos / CLASSES[0] / f"new{number}.png")
    (photos / CLASSES[1] / "15.png").rename(photos / CLASSES[2] / "15.png")
    (photos / CLASSES[3] / "45.png").unlink()
    assert project.repro("preprocess") == ["preprocess"]
    labels = [np.load(each.folder / "data/processed/labels.npz") for each in (project, own)]
    train, dev = (len(labels[0][part]) - len(labels[1][part]) for part in ("train", "dev"))
    said = project.dvc("repro", "features").stdout
    counts = [int(count) for count in re.findall(r"(\d+) computed", said)]
    if "depend on the rest of a batch" in said:
        assert counts == [len(labels[0]["train"])] * 2 + [len(labels[0]["dev"])]
    else:
        assert train + 1 >= counts[0] >= train > 0
        assert counts[1] == counts[0]
        assert dev + 1 >= counts[2] >= dev
    found = project.outputs()
    for path in (project.folder / ".dvc/cache/files/md5").rglob("*"):
        if path.is_file() and path.read_bytes().startswith(b"\x93NUMPY"):
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    afresh = project.dvc("repro", "--force", "--single-item", "features")
    total = sum(map(int, re.findall(r"(\d+) computed", afresh.stdout)))
    assert total == 2 * len(labels[0]["train"]) + len(labels[0]["dev"])
    assert project.outputs() == found


def touch_in_new_folder(path: Path) -> None:
    path.parent.mkdir()
    path.touch()


MAKE: dict[str, Callable[[Path], None]] = {
    "new\nline, -\U0001f600.png": Path.touch,
    os.fsdecode(b"\xff.png"): Path.touch,
    os.fsdecode(b"caf\xe9/a.png"): touch_in_new_folder,
    "to a folder": lambda path: path.symlink_to(".."),
    "to nothing": lambda path: path.symlink_to("nothing"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("name", MAKE, ids=ascii)
def test_an_awkward_file_is_listed_or_named_in_one_line(
    name: str, own: Project, tmp_path: Path
) -> None:
    """By DVC or before it, which reads all files before preprocess does."""
    project = own.copy(tmp_path)
    project.set(data={"name": "mine"})
    place = project.folder / "data/images/mine"
    shutil.copytree(project.folder / PHOTOS, place)
    MAKE[name](place / "red disc" / name)
    done = project.run("timeout", "30", "dvc", "repro", "preprocess")
    if done.returncode == 0:
        with (project.folder / "data/processed/skipped.csv").open(newline="") as file:
            assert [row["file"] for row in csv.DictReader(file)] == [f"red disc/{name}"]
    else:
        (line,) = (line for line in done.stderr.splitlines() if "data/images/mine/" in line)
        assert printable(name) in line


def test_missing_images_are_one_line(own: Project, tmp_path: Path) -> None:
    project = own.copy(tmp_path)
    project.set(data={"name": "nowhere"})
    said = one_line(project.stage("download"))
    assert said.startswith("error: data/images/nowhere is missing; ")
    assert said in project.dvc("repro").stderr


@pytest.mark.parametrize("name", ["cifar10", "mine"])
def test_images_where_dvc_would_delete_them_are_an_error(
    fresh: Project, tmp_path: Path, name: str
) -> None:
    project = fresh.copy(tmp_path)
    project.set(data={"name": name})
    (project.folder / ARCHIVE.parent / "rose").mkdir(parents=True)
    said = one_line(project.stage("check"))
    assert said.startswith(f"error: {ARCHIVE.parent} has rose, but is an output of this stage, ")
