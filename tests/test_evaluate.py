"""Stage 7: measures agree with Keras's own, and a model that gives no numbers is not measured."""

import csv
import json
import re
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from stages import evaluate, paths
from stages.calibration import ece
from stages.data.dataset import DataSet
from stages.errors import PipelineError
from stages.paths import (
    CLASS_ACCURACY,
    ENVIRONMENT,
    HEAD_CURVE,
    METRICS,
    MODEL_CARD,
    PROBABILITIES,
    WEIGHTS,
)
from tests.conftest import ALL, PROJECT
from tests.drawn import write_data_set

MODEL = paths.model(ALL.data.name)
NAMES = np.array([f"class {label}" for label in range(10)])


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the current folder: 200 test images without class 9, 20 dev images, a model."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for path in (HEAD_CURVE, WEIGHTS):
        path.parent.mkdir(parents=True)
    with h5py.File(WEIGHTS, "w") as file:
        file.attrs["source"] = "0" * 64
    write_data_set(
        rng.integers(0, 256, (225, 32, 32, 3), np.uint8),
        np.concatenate([rng.integers(0, 9, 200), rng.integers(0, 10, 25)]),
        [f"{row}.png" for row in range(225)],
        train=np.arange(200, 205),
        dev=np.arange(205, 225),
        test=np.arange(200),
        class_names=NAMES,
    )
    HEAD_CURVE.write_text("epoch,dev_accuracy\n1,0.25\n2,0.2\n")
    write_model()


def write_model(factor: float = 0.02, bias: float = 0.0) -> keras.Model:
    """Write a model that looks at the mean color, by a layer `logits` with random weights."""
    keras.utils.set_random_seed(1)
    images = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(images)
    x = keras.layers.Dense(10, name="logits")(x)
    model = keras.Model(images, keras.layers.Softmax()(x))
    kernel, _ = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * factor, np.full(10, bias)])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    model.save(MODEL)
    return model


def test_measures_are_those_of_keras() -> None:
    evaluate.main(ALL)
    metrics = json.loads(METRICS.read_text())
    data = DataSet()
    x_dev, x_test = data.images("dev")[:], data.images("test")[:]
    y_dev, y_test = data.labels("dev"), data.labels("test")
    one_hot = np.eye(10)
    model = keras.models.load_model(MODEL)
    of_test = model.evaluate(x_test, one_hot[y_test], verbose=0, return_dict=True)
    of_dev = model.evaluate(x_dev, one_hot[y_dev], verbose=0, return_dict=True)
    assert metrics["val_accuracy"] == pytest.approx(of_test["accuracy"], abs=1e-6)
    assert metrics["val_loss"] == pytest.approx(of_test["loss"], rel=1e-4)
    assert metrics["dev_accuracy"] == pytest.approx(of_dev["accuracy"], abs=1e-6)
    assert metrics["dev_accuracy_after_head"] == 0.25

    predicted = model.predict(x_test, verbose=0).argmax(axis=1)
    with CLASS_ACCURACY.open(newline="") as file:
        by_class = {row["class"]: float(row["accuracy"]) for row in csv.DictReader(file)}
    assert by_class == {
        f"class {label}": pytest.approx(np.mean(predicted[y_test == label] == label), abs=1e-6)
        for label in range(9)  # there is no test image of class 9
    }
    mean = np.mean(list(by_class.values()))
    assert metrics["val_balanced_accuracy"] == pytest.approx(mean, abs=1e-6)
    assert metrics["val_balanced_accuracy"] != metrics["val_accuracy"]
    with np.load(PROBABILITIES) as found:
        assert found["dev"].dtype == found["test"].dtype == np.float32
        np.testing.assert_allclose(found["dev"], model.predict(x_dev, verbose=0), atol=1e-6)
        np.testing.assert_allclose(found["test"], model.predict(x_test, verbose=0), atol=1e-6)
        assert metrics["ece"] == pytest.approx(ece(found["test"], y_test), abs=1e-6)
    assert 0 < metrics["val_accuracy"] < 1
    assert json.loads(ENVIRONMENT.read_text())["keras"] == keras.__version__


def in_card(folder: Path) -> dict[str, float]:
    """Return the numbers in the tables of a model card, by the name in the first column."""
    rows = re.findall(r"^\| ([\w ]+) \| ([0-9.]+) \|", (folder / MODEL_CARD).read_text(), re.M)
    return {name: float(value) for name, value in rows}


def test_the_card_has_all_measures_and_names_the_files() -> None:
    backbone = ALL.backbone.model_copy(update={"sha256": {"of_dogs": "0" * 64}})
    download = ALL.download.model_copy(update={"sha256": {"mine": "1" * 64}})
    evaluate.main(ALL.model_copy(update={"backbone": backbone}))
    with CLASS_ACCURACY.open(newline="") as file:
        by_class = {row["class"]: float(row["accuracy"]) for row in csv.DictReader(file)}
    measured = json.loads(METRICS.read_text()) | by_class
    assert in_card(Path()) == {name: round(value, 4) for name, value in measured.items()}
    card = MODEL_CARD.read_text()
    assert "- **Data:** drawn images; images: 5 train, 20 dev, 200 test. " in card
    assert f"SHA-256: `{'1' * 64}`\n" in card
    assert "\n- They were drawn.\n- **License" in card
    assert "name of the file in `backbone.sha256`: `of_dogs`." in card
    assert f"`{'0' * 64}`" in card
    assert f"keras.applications.{ALL.backbone.name}`" in card
    assert "# cifar10.h5\n\nA classifier of 32x32 images into 10 classes, " in card
    assert "$" not in card
    evaluate.main(ALL.model_copy(update={"download": download}))
    card = MODEL_CARD.read_text()
    assert "- **Data:** drawn images (mine); images: 5 train" in card
    assert "name of the file in `backbone.sha256`: `not named`." in card


def test_the_committed_card_says_what_the_committed_metrics_do() -> None:
    measured = json.loads((PROJECT / METRICS).read_text())
    said = in_card(PROJECT)
    assert {name: said[name] for name in measured} == {
        name: round(value, 4) for name, value in measured.items()
    }


@pytest.mark.parametrize(
    ("factor", "bias", "said"),
    [
        (1.0, np.nan, r"cifar10\.h5: .*logits/bias holds NaN or infinity"),
        (np.inf, 0.0, r"cifar10\.h5: .*logits/kernel holds NaN or infinity"),
        (1e38, 0.0, r"cifar10\.h5 predicts NaN"),
    ],
)
def test_a_model_that_gives_no_numbers_is_not_measured(
    factor: float, bias: float, said: str
) -> None:
    write_model(factor, bias)
    METRICS.write_text("of the run before")
    with pytest.raises(
        PipelineError, match=rf"^{said}; retrain with a lower fine_tune\.learning_rate$"
    ):
        evaluate.main(ALL)
    assert METRICS.read_text() == "of the run before"


def test_weights_alone_are_no_model() -> None:
    write_model().save_weights("cifar10.weights.h5")
    Path("cifar10.weights.h5").replace(MODEL)
    with pytest.raises(PipelineError, match=r"cifar10\.h5: damaged \(.*; run `dvc repro`"):
        evaluate.main(ALL)
