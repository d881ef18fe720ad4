"""The plain scripts: presets, the plot, the comparison with Keras's guide, `make verify`."""

import csv
import re
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from keras import Sequential, layers
from PIL import Image
from ruamel.yaml import YAML

from bench import clone, compare, guide, photos, plot, preset, seeds, verify
from bench.photos import Point
from stages import params, preprocess
from stages.data.dataset import PARTS, DataSet
from stages.paths import ARCHIVE, PHOTOS
from tests.conftest import ALL, PROJECT, Project
from tests.drawn import draw

PRESETS = list(YAML().load(preset.PRESETS))
HEADER = "preset,minutes,dev,val_accuracy\n"
LOCK = """
schema: '2.0'
stages:
  features: {cmd: a, outs: [{path: data/features, md5: 1}]}
  fine_tune: {cmd: b, outs: [{path: cifar10.h5, md5: 2}, {path: curve.csv, md5: 3}]}
  gate: {cmd: c}
"""


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A finished project, which scripts that run in this process take for their own."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MIRROR", project.environment["MIRROR"])
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # it has no bench/ itself
    return project


def run_preset(project: Project, *names: str) -> tuple[int, str]:
    run = project.run(sys.executable, "-m", "bench.preset", *names, PYTHONPATH=str(PROJECT))
    return run.returncode, run.stdout + run.stderr


def draw_photos(folder: Path, images: int) -> None:
    """Write images as PNG into ten class folders."""
    labels = np.arange(images) % 10
    for number, (image, label) in enumerate(zip(draw(labels, 0), labels, strict=True)):
        path = folder / f"class {label}" / f"{number}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, "PNG")


def test_dvc_takes_over_a_preset_and_leaves_what_is_the_users_to_say(
    fresh: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = fresh.copy(tmp_path)
    monkeypatch.chdir(project.folder)
    (project.folder / "dvc.yaml").write_text("stages: {report: {cmd: 'true'}}\n")
    project.run("git", "commit", "-qam", "a pipeline that computes nothing")
    own = {"sha256": {"mine": "0" * 64}}
    data, features = {"name": "mine", "aspect": "pad"}, {"flip": False}
    project.set(backbone=own, data=data, features=features | {"views": 3}, gate={"minimum": 0.5})
    (project.folder / "data/images/mine").mkdir(parents=True)
    for name in reversed(PRESETS):  # default, which changes nothing, after others
        status, said = run_preset(project, name)
        assert status == 0, said
        params.load(project.folder / "params.yaml")  # each value is allowed
        now = YAML().load(project.folder / "params.yaml")
        keys = {f"{section}.{key}" for section, values in now.items() for key in values}
        kept = {"backbone.sha256", "data.aspect", "data.name", "download.sha256", "features.flip"}
        kept |= {"gate.minimum", *(f"preprocess.{key}" for key in now["preprocess"])}
        assert keys - set(preset.settings(name)) == kept
        for key, value in preset.settings(name).items():
            section, setting = key.split(".")
            assert now[section][setting] == value, key
        assert now["backbone"].items() >= own.items()
        assert now["data"].items() >= data.items()
        assert now["features"].items() >= features.items()
        assert now["gate"] == {"minimum": 0.5}


def test_a_preset_is_run_on_the_images_that_are_named(fresh: Project, tmp_path: Path) -> None:
    project = fresh.copy(tmp_path)
    (project.folder / "dvc.yaml").write_text("stages: {report: {cmd: 'true'}}\n")
    project.run("git", "commit", "-qam", "a pipeline that computes nothing")
    status, said = run_preset(project, "quick", "flowers")
    assert (status, said.startswith("error: data/images/flowers is missing; ")) == (1, True)
    assert project.run("git", "status", "--porcelain").stdout == ""
    (project.folder / "data/images/flowers").mkdir(parents=True)
    status, said = run_preset(project, "quick", "flowers")
    assert status == 0, said
    assert params.load(project.folder / "params.yaml").data.name == "flowers"
    project.set(data={"nam": "flowers"})
    status, said = run_preset(project, "quick")
    assert (status, said.count("\n")) == (1, 1), said
    assert said.startswith("error: params.yaml: unknown key data.nam")


def test_an_unknown_name_is_one_line(fresh: Project) -> None:
    status, said = run_preset(fresh, "fast")
    expected = f"error: PRESET = 'fast': expected one of {', '.join(PRESETS)}\n"
    assert (status, said) == (1, expected)


@pytest.mark.parametrize("count", ["1", "many"])
def test_a_spread_is_of_two_seeds_at_least(fresh: Project, count: str) -> None:
    command = [sys.executable, "-m", "bench.seeds", "fastest", count]
    run = fresh.run(*command, PYTHONPATH=str(PROJECT))
    expected = f"error: SEEDS = {count!r}: expected a whole number, 2 or more\n"
    assert (run.returncode, run.stdout + run.stderr) == (1, expected)


def drawn(folder: Path, rows: str, gate: float = 0.87) -> bytes:
    (folder / "table.csv").write_text(HEADER + rows)
    plot.draw(folder / "table.csv", gate, folder / "plot.svg")
    return (folder / "plot.svg").read_bytes()


def test_the_committed_plot_is_of_the_committed_table(tmp_path: Path) -> None:
    gate = params.load(PROJECT / params.PARAMS).gate.minimum
    with mpl.rc_context({"figure.facecolor": "black", "lines.markersize": 20}):  # a user's own
        plot.draw(PROJECT / "docs/experiments.csv", gate, tmp_path / "plot.svg")
    committed = (PROJECT / "docs/frontier.svg").read_bytes()
    assert (tmp_path / "plot.svg").read_bytes() == committed, "make plot"


def test_the_plot_has_a_mark_for_what_was_measured(tmp_path: Path) -> None:
    rows = "slow,10,0.91,0.92\nquick,1,0.89,0.88\nattempt,5,0.9,\n"
    svg = drawn(tmp_path, rows)
    texts = re.findall("([^<>]+)</text>", svg.decode())
    assert {"quick", "slow", "gate 0.87"} < set(texts)
    assert "attempt" not in texts
    assert drawn(tmp_path, rows + "attempt,,0.9,\nattempt,3,,\n") == svg  # nothing to draw
    assert drawn(tmp_path, rows.replace("0.88", "0.89")) != svg
    assert drawn(tmp_path, rows + "scratch,20,0.9,0.9\n") != svg
    assert drawn(tmp_path, rows, gate=0.9) != svg
    assert b"untested" in drawn(tmp_path, rows + "untested,20,0.92,\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("md5: 2", "md5: 4"), "cifar10.h5"),
        (("path: curve.csv", "path: other.csv"), "curve.csv, other.csv"),
        (("1}]", "5}]"), "data/features"),
    ],
)
def test_two_locks_that_differ_end_the_process(change: tuple[str, str], said: str) -> None:
    other = LOCK.replace(*change)
    with pytest.raises(SystemExit, match=f"^error: verify: FAILED, two runs differ: {said}$"):
        verify.check(LOCK, other)
    with pytest.raises(SystemExit):
        verify.check(LOCK, LOCK.replace("cmd: c", "cmd: d"))
    verify.check(LOCK, LOCK)


def test_where_a_clone_finds_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project" / ARCHIVE.parent).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("MIRROR", raising=False)
    assert clone.mirror() == str(tmp_path / "project" / ARCHIVE.parent)  # it has been downloaded
    shared = tmp_path / "shared/mirror"
    shared.mkdir(parents=True)
    assert clone.mirror() == str(shared)
    ARCHIVE.touch()
    assert clone.mirror() == str(tmp_path / "project" / ARCHIVE.parent)
    (shared / ARCHIVE.name).touch()
    assert clone.mirror() == str(shared)
    for given, seen in (("data", str(tmp_path / "project/data")), ("http://host", "http://host")):
        monkeypatch.setenv("MIRROR", given)
        assert clone.mirror() == seen


def test_the_guide_trains_all_but_batch_normalization() -> None:
    net = Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten()])
    model = Sequential([net, layers.Dense(10, activation="softmax")])
    x = np.random.default_rng(0).random((8, 6, 6, 3))
    model(x)
    net.trainable = False
    guide.unfreeze(net)
    model.compile("sgd", guide.LOSS, jit_compile=False)
    before = net.get_weights()
    model.train_on_batch(x, np.arange(8))
    kernel, _, *batch_norm = map(np.array_equal, before, net.get_weights())
    assert not kernel
    assert batch_norm == [True] * 4


def test_the_guide_is_measured_on_the_mirror_image_too() -> None:
    x = np.array([[[[0], [3]]]], "float32")
    parts = Sequential([layers.Flatten()]), layers.Identity()
    assert guide.accuracy(*parts, x, np.array([0])) == 1  # both classes alike; the image alone is 1
    assert guide.accuracy(*parts, x, np.array([0]), flip=False) == 0


def test_the_guide_reads_the_same_images_in_the_same_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_photos(PHOTOS / "own", 120)
    (PHOTOS / "own/class 3/notes.txt").write_text("no image")
    given = ALL.data.model_copy(update={"name": "own", "image_size": 32})
    preprocess.main(ALL.model_copy(update={"data": given}))
    guide.write_folders(PHOTOS / "own", tmp_path / "copied")
    data = DataSet()
    for part in PARTS:
        read = list(guide.folder(tmp_path / "copied" / part, 32, "crop"))
        assert [int(label) for _, label in read] == sorted(data.labels(part))
        expected = zip(data.labels(part).tolist(), data.images(part)[:], strict=True)
        assert sorted((int(label), np.uint8(image).tobytes()) for image, label in read) == sorted(
            (label, image.tobytes()) for label, image in expected
        )
    (tmp_path / "copied/dev/00003/1.webp").touch()
    with pytest.raises(SystemExit, match="1 images are in formats that Keras's own"):
        guide.folder(tmp_path / "copied/dev", 32, "crop")


def test_which_epoch_of_the_guide_is_compared() -> None:
    curve = [Point(10, 0.5, 0.6), Point(20, 0.8, 0.7), Point(30, 0.7, 0.9), Point(40, 0.8, 0.8)]
    assert photos.best(curve) == curve[1]  # by dev, not test; the first of equals
    assert photos.within(curve, 39) == curve[2]  # the last one, not the best
    assert photos.within(curve, 40) == curve[3]
    assert photos.within(curve, 9) == photos.NEVER
    assert photos.spread(np.array([0.75, 0.25, 0.5])) == "0.5000 (0.2500 to 0.7500)"
    assert photos.spread(np.array([0.5, *photos.NEVER[1:2]])) == "nan (nan to nan)"


@pytest.mark.bench
def test_verify_runs_all_of_it_and_can_fail(
    here: Project,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    clones = tmp_path_factory.mktemp("clones")
    monkeypatch.setattr("tempfile.tempdir", str(clones))
    # A cache that has every result, from which none may come.
    with (here.folder / ".dvc/config").open("a") as config:
        config.write(f"[cache]\n    dir = {here.folder / '.dvc/cache'}\n")
    here.run("git", "commit", "-qam", "a shared cache")
    same, other = verify.run({}, "HEAD"), verify.run({"fine_tune.seed": 2}, "HEAD")
    assert capfd.readouterr().out.count("Running stage") == 2 * len(
        YAML().load(here.folder / "dvc.yaml")["stages"]
    )

    results = [same, same, same, other]
    monkeypatch.setattr(verify, "run", lambda *_: results.pop(0))
    verify.main("")
    said = capfd.readouterr().out
    assert "verify: differs from the committed dvc.lock: nothing\n" in said
    assert said.endswith("verify: passed, both runs produced the same dvc.lock\n")
    differ = r"two runs differ: MODEL_CARD.md, cifar10.h5, data/.*fine_tune/curve"
    with pytest.raises(SystemExit, match=differ):
        verify.main("")
    assert not list(clones.iterdir())


@pytest.mark.bench
def test_three_ways_are_measured(here: Project, capfd: pytest.CaptureFixture[str]) -> None:
    small = {"backbone.name": "MobileNetV2", "backbone.cut": "block_2_add", "fine_tune.epochs": 1}
    compare.main(small, target=0.0, images=50)
    with compare.TABLE.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(compare.COLUMNS)
    for _, seconds, accuracy, peak, _ in rows:
        assert float(seconds) > 1
        assert 0 <= float(accuracy) <= 1
        assert 100 < float(peak) < 8_000
    pipeline, fine_tuning, extraction = (row[-1] for row in rows)
    assert "from archive and weights" in pipeline
    assert "after 0.50 epochs" in fine_tuning  # it stops as soon as the target is reached
    assert extraction.startswith("45,000 images at")
    said = capfd.readouterr().out
    assert said.splitlines()[-5].startswith("| solution | seconds |")
    assert '"processor": ' in said.splitlines()[-7]


@pytest.mark.bench
def test_presets_and_guide_are_measured_on_own_images(
    here: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = {"backbone.image_size": 32, "data.image_size": 32, "fine_tune.epochs": 1}
    monkeypatch.setattr(photos, "settings", lambda _: small)
    draw_photos(PHOTOS / "own", 120)
    photos.main("own", ["small"], seeds=[1, 2], rates=[1e-5, 1e-4], epochs=1)
    with photos.TABLE.open(newline="") as file:
        header, pipeline, best, within = csv.reader(file)
    said = capfd.readouterr().out
    assert said.splitlines()[-5] == f"| {' | '.join(header)} |"
    assert said.count("Running stage 'fine_tune'") == 2
    curves = re.findall(r"guide: rate ([0-9.e-]+), epoch 4: ([0-9.]+) s, dev ([0-9.]+)", said)
    assert len(curves) == 3  # the second seed at the better rate only
    assert pipeline[0] == "small"
    assert pipeline[-1] == "1.00"
    assert float(curves[-1][0]) == float(best[0].split("rate ")[1].split(":")[0])
    for row in (pipeline, best):
        assert float(row[1]) > 0
        assert re.fullmatch(r"[01]\.\d{4} \([01]\.\d{4} to [01]\.\d{4}\)", row[2])
    assert within[0].endswith("in the time of small")


@pytest.mark.bench
def test_seeds_change_what_is_trained_and_not_what_it_is_measured_on(
    here: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(seeds, "settings", lambda _: {})
    seeds.main("small", 2)
    said = capfd.readouterr().out
    assert said.count("Running stage 'preprocess'") == 1
    assert said.count("Running stage 'features'") == said.count("Running stage 'fine_tune'") == 2
    header, _, dev, test = said.splitlines()[-4:]
    assert header == "| small, 2 seeds | min | median | max | standard deviation |"
    for row, name in ((dev, "dev"), (test, "test")):
        found = [float(value) for value in re.findall(rf"seeds: .*{name} ([0-9.]+)", said)]
        low, middle, high, spread = (float(cell) for cell in row.split("|")[2:-1])
        assert (low, high) == (min(found), max(found))
        assert middle == pytest.approx(sum(found) / 2, abs=1e-4)
        assert spread == pytest.approx((high - low) / 2**0.5, abs=1e-4)
