"""The benchmark: what it computes, what it measures, and one real run of the guide's way."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml

from stages.transfer import backbones, demo
from stages.transfer.bench import comparison, guide, processes, rivals, scratch
from stages.transfer.bench import side_by_side as benchmark
from stages.transfer.bench.comparison import Row, Stage
from stages.transfer.errors import PipelineError
from stages.transfer.files import digest
from stages.transfer.paths import DATASET, WEIGHTS
from stages.transfer.synthetic import draw
from tests.conftest import PROJECT, Project

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_ratios_and_extrapolation() -> None:
    assert comparison.ratio(90.0, 60.0) == 1.5
    assert comparison.ratio(None, 60.0) is None
    assert comparison.ratio(90.0, None) is None
    assert comparison.epochs_seconds(90.0, 2) == 1000.0
    timed = {"images_per_second": 45.0, "images": 512, "batch_size": 128}
    row = comparison.derived_row("ResNet50", 224, timed, 2000.0)
    assert row.seconds == 10_000
    assert row.test_accuracy is None
    assert row.note.startswith("derived: ")
    for stated in ("512", "batches of 128", "5,000 to 50,000 s"):
        assert stated in row.note


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.034, "0.034"), (1.0, "1.0"), (9.96, "10.0"), (12.4, "12"), (1e5, "100000")],
)
def test_digits(value: float, shown: str) -> None:
    assert comparison.digits(value) == shown


def test_tables_hold_each_way_and_its_ratio(tmp_path: Path) -> None:
    rows = [
        Row("(1)", 400.0, {"features": 700.0, "fine_tune": 350.0}, 1200.4, 0.89, "measured"),
        Row("(2) a|b", 1000.0, {"head": 400.0}, 2000.0, 0.87, "measured"),
        Row("(3)", None, {"head": 15.0}, 3000.0, None, "derived"),
    ]
    comparison.write(tmp_path / "bench", "the heading", 0.87, rows, [Stage("features", 1.0, 2.0)])
    with (tmp_path / "bench/bench.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["ratio to (1)"] for line in table] == ["1.0", "2.5", comparison.NONE]
    assert [line["seconds to 0.87 on dev"] for line in table] == ["400", "1000", comparison.NONE]
    assert table[0]["images per second"] == "features 700, fine_tune 350"
    text = (tmp_path / "bench/bench.md").read_text()
    assert text.startswith("the heading\n\n| what | seconds to 0.87 on dev |")
    assert r"(2) a\|b" in text
    assert "| features | 1.0 | 2 |" in text


def test_without_the_pipelines_seconds_there_are_no_ratios() -> None:
    row = Row("(2)", 1000.0, {}, 1.0, None, "measured")
    assert comparison.cells(row, None)[2] == comparison.NONE


def test_the_header_names_machine_data_and_libraries() -> None:
    whole = comparison.header("abc", None)
    assert "cores" in whole
    assert "sha256 abc" in whole
    assert f"Keras {keras.__version__}" in whole
    assert "first 40 images" in comparison.header("abc", 40)


@linux
def test_memory_is_that_of_the_whole_tree() -> None:
    holding = "x = b'1' * (100 << 20); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {holding!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE) as process:
        with processes.PeakMemory(process.pid) as memory:
            deadline = time.monotonic() + 15
            while memory.bytes < 100 << 20 and time.monotonic() < deadline:
                time.sleep(0.1)
        assert len(processes.process_tree(process.pid)) == 2
        process.communicate(b"\n")
    assert 100 << 20 <= memory.bytes < 160 << 20
    assert processes.process_tree(process.pid) == []


def python(code: str, folder: Path) -> processes.Run:
    return processes.run([sys.executable, "-c", code], folder, os.environ)


def test_a_command_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = python(
        "import os, time; print(os.getcwd(), flush=True); time.sleep(0.5); print('end')", tmp_path
    )
    assert run.lines == [str(tmp_path.resolve()), "end"]
    assert 0.3 < run.came[1] - run.came[0] < 5
    assert 0.5 < run.seconds < 10
    monkeypatch.setattr(processes, "PROC", tmp_path)  # empty: as off Linux
    assert python("x = b'1' * (100 << 20)", tmp_path).peak_mib > 100


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('noise', file=sys.stderr); sys.exit('error: no such file')", "no such"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import os; os._exit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "too little memory"),
    ],
)
def test_a_command_that_fails_says_why_in_one_line(code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=said) as raised:
        python(code, tmp_path)
    assert "\n" not in str(raised.value).split(":", 1)[1]


def test_an_interruption_ends_what_was_started() -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom stages.transfer.bench import processes\n"
        "sleep = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        "processes.run([sys.executable, '-c', sleep], Path(), os.environ)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        started = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(10)
    with pytest.raises(ProcessLookupError):
        os.kill(started, 0)


def test_a_copy_has_other_settings_and_this_projects_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "origin/data/raw/cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"archive")
    (tmp_path / "origin/params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    monkeypatch.setattr(scratch, "PROJECT", tmp_path / "origin")
    settings = [f"download.sha256=[{digest(archive)}]", "fine_tune.learning_rate=5e-4"]
    project = scratch.copy_project(tmp_path / "root", settings)
    params = yaml.safe_load((project / "params.yaml").read_text())
    assert float(params["fine_tune"]["learning_rate"]) == 5e-4
    assert (project / "../shared/mirror" / archive.name).read_bytes() == b"archive"
    assert (project / "stages/features.py").exists()


def test_settings_of_ones_own_do_not_reach_what_is_measured(tmp_path: Path) -> None:
    values = scratch.environment(tmp_path)
    for place in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG"):
        assert values[f"DVC_{place}_DIR"] == str(tmp_path / "dvc")


MADE = {"name": "MobileNetV2", "image_size": 96, "weights": "imagenet"}


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with weights that `dvc.lock` says were made with the settings `MADE`."""
    origin = tmp_path / "origin"
    weights = origin / "data/backbone/backbone.weights.h5"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    made = {
        "params": {"params.yaml": {f"backbone.{key}": value for key, value in MADE.items()}},
        "outs": [{"md5": digest(weights, "md5")}],
    }
    lock = {"schema": "2.0", "stages": {"backbone": made}}
    (origin / "dvc.lock").write_text(yaml.safe_dump(lock))
    monkeypatch.setattr(scratch, "PROJECT", origin)
    return origin


def test_a_copy_takes_this_projects_weights_if_they_are_the_ones_asked_for(origin: Path) -> None:
    weights = origin / "data/backbone/backbone.weights.h5"
    assert scratch.weights_for(MADE) == str(weights)
    for other in ({"name": "DenseNet121"}, {"image_size": 128}):
        assert scratch.weights_for(MADE | other) == "imagenet"
    assert scratch.weights_for(MADE | {"weights": "random"}) == "random"
    assert scratch.weights_for(MADE | {"weights": "mine.h5"}) == str(origin / "mine.h5")
    assert scratch.weights_for(MADE | {"weights": "/mine.h5"}) == "/mine.h5"
    weights.write_bytes(b"others")
    assert scratch.weights_for(MADE) == "imagenet"


@pytest.mark.parametrize(
    "text", ["", "<<<<<<< HEAD\nstages: 1\n=======\n", "stages: {}", "[]", "\0"]
)
def test_a_lock_that_nobody_can_read_offers_no_weights(origin: Path, text: str) -> None:
    (origin / "dvc.lock").write_text(text)
    assert scratch.weights_for(MADE) == "imagenet"


def test_tuning_the_guide_has_what_it_needs(
    fresh: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def rival(arguments: Sequence[str], project: Path, _: Mapping[str, str]) -> tuple[Any, float]:
        seen.append([*arguments])
        assert (project / WEIGHTS).exists()
        assert (project / DATASET).exists()
        return [{"rate": 0.1, "checks": []}], 1.0

    for module in (scratch, demo):
        monkeypatch.setattr(module, "PROJECT", fresh.folder)
    monkeypatch.setattr(benchmark, "rival", rival)
    monkeypatch.setenv("MIRROR", str(fresh.mirror))
    monkeypatch.chdir(tmp_path)
    benchmark.main(["--tune", "--epochs", "2"])
    assert seen == [["guide", "--tune", "--epochs", "2"]]
    assert (tmp_path / "data/bench/tune.csv").read_text().startswith("rate,epoch")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("epochs=1", "expected section.key=value"),
        ("fine_tune.epochs=[", "expected YAML"),
        ("fine_tune.epochs=-1", "^-S: fine_tune.epochs = -1"),
        ("fine_tune.epoch=1", "nearest: fine_tune.epochs"),
        ("download.sha256=3", "^-S: download.sha256"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=said):
        scratch.copy_project(tmp_path / "root", [setting])


def test_a_wrong_argument_is_one_line() -> None:
    for arguments in (["--images", "0"], ["--target", "87"], ["--image", "x"], ["more"]):
        with pytest.raises(PipelineError, match="--help"):
            benchmark.main(arguments)
    with pytest.raises(PipelineError, match="--name"):
        rivals.main(["usual", "--name", "ResNet51"])


def test_a_stages_cost_is_read_off_the_lines_of_dvc() -> None:
    lines = ["Running stage 'features':", "> python3", "Running stage 'train_head':", "end"]
    memory = [(0.5, 10.0), (2.5, 30.0), (4.5, 20.0)]
    run = processes.Run(9.0, 31.0, lines, [1.0, 1.5, 4.0, 8.0], memory)
    expected = [Stage("features", 4.0, 30.0), Stage("train_head", 5.0, 20.0)]
    assert benchmark.stages_of(run) == expected
    assert benchmark.stages_of(run._replace(lines=["up to date"], came=[1.0])) == []
    without_proc = run._replace(memory=[(at, 0.0) for at, _ in memory])
    assert [stage.peak_mib for stage in benchmark.stages_of(without_proc)] == [31.0, 31.0]


def test_the_pipelines_row_is_read_off_what_it_left(tmp_path: Path) -> None:
    parts = {f"y_{part}": np.zeros(n) for part, n in (("train", 40), ("dev", 10), ("test", 20))}
    for name in ("data/processed", "data/features", "data/fine_tune"):
        (tmp_path / name).mkdir(parents=True)
    np.savez(tmp_path / "data/processed/cifar10.npz", **parts)  # type: ignore[arg-type]
    for name, count in (("train_view0", 40), ("train_view1", 40), ("dev", 10)):
        np.save(tmp_path / f"data/features/{name}.npy", np.zeros((count, 2)))
    (tmp_path / "data/fine_tune/curve.csv").write_text("epoch,accuracy\n1,0.5\n2,0.6\n")
    metrics = {"dev_accuracy_after_fine_tune": 0.88, "val_accuracy": 0.89}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    stages = [Stage(name, 10.0, 100.0 + i) for i, name in enumerate(benchmark.MEASURED[1:])]

    row = benchmark.pipeline_row("default", tmp_path, stages, 0.87)
    assert row.seconds == 50  # backbone, preprocess, features, train_head, fine_tune
    assert row.peak_mib == 105
    assert row.test_accuracy == 0.89
    assert row.images_per_second == {
        "features": 9.0,
        "train_head": 5.0,
        "fine_tune": 8.0,
        "evaluate": 3.0,
    }
    assert benchmark.pipeline_row("default", tmp_path, stages, 0.9).seconds is None


def test_unfreezing_leaves_batch_normalization_alone() -> None:
    images = keras.Input((8, 8, 3))
    normalised = keras.layers.BatchNormalization(name="norm")
    base = keras.Model(images, normalised(keras.layers.Conv2D(2, 3, name="conv")(images)))
    base.trainable = False
    outer = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(base(outer, training=False))
    model = keras.Model(outer, keras.layers.Dense(2)(pooled))
    guide.unfreeze(base)
    guide.compile_model(model, 0.1)
    before = [base.get_layer(name).get_weights() for name in ("conv", "norm")]
    x = np.random.default_rng(1).normal(5.0, 1.0, (8, 8, 8, 3)).astype(np.float32)
    model.train_on_batch(x, np.arange(8) % 2)
    after = [base.get_layer(name).get_weights() for name in ("conv", "norm")]
    assert any(np.any(a != b) for a, b in zip(after[0], before[0], strict=True))
    for a, b in zip(after[1], before[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_guides_way_runs(tmp_path: Path) -> None:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["backbone"] |= {"name": "VGG16", "image_size": 32}  # quickly traced
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for name in ("processed", "backbone"):
        (tmp_path / "data" / name).mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {}
    for seed, part in enumerate(("train", "dev", "test")):
        arrays[f"y_{part}"] = np.arange(40) % 10
        arrays[f"x_{part}"] = draw(arrays[f"y_{part}"], seed)
    arrays["class_names"] = np.array(list("abcdefghij"))
    np.savez(tmp_path / "data/processed/cifar10.npz", **arrays)  # type: ignore[arg-type]
    net = backbones.build("VGG16", 32)
    net.save_weights(tmp_path / "data/backbone/backbone.weights.h5")

    command = [sys.executable, "-m", "stages.transfer.command", "rival"]
    command += ["--started", str(time.time() - 100), "guide", "--epochs", "1"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    run = processes.run(command, tmp_path, environment)
    (result,) = json.loads(run.lines[-1])
    assert [check["epoch"] for check in result["checks"]] == [0.25, 0.5, 0.75, 1.0]
    assert result["checks"][-1]["images"] == 40
    assert result["seconds"] is None  # the target, by default, is 1
    assert result["rate"] == guide.RATE
    seconds = [check["seconds"] for check in result["checks"]]
    assert 100 < seconds[0] < seconds[-1] < 100 + run.seconds
    row = benchmark.guide_row(result, run.peak_mib)
    assert row.note.startswith("measured: dev ")
    assert set(row.images_per_second) == {"head", "fine-tuning"}

    benchmark.write_attempts([result], tmp_path / "tune.csv")
    lines = (tmp_path / "tune.csv").read_text().splitlines()
    assert lines[0] == "rate,epoch,images,seconds,dev_accuracy"
    assert len(lines) == 5
