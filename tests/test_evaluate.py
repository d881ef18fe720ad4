"""Stage 7: measures agree with Keras's own, and a model that gives no numbers is not measured."""

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from stages import evaluate, params
from stages.errors import PipelineError
from stages.paths import CONFUSION, DATASET, ENVIRONMENT, HEAD, METRICS, MODEL
from tests.conftest import PROJECT

ALL = params.load(PROJECT / "params.yaml")
NAMES = np.array([f"class {label}" for label in range(10)])


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the current folder: 200 test images without class 9, 20 dev images, a head, a model."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for path in (DATASET, HEAD):
        path.parent.mkdir(parents=True)
    np.savez(
        DATASET,
        x_dev=rng.integers(0, 256, (20, 32, 32, 3), np.uint8),
        y_dev=rng.integers(0, 10, 20, np.uint8),
        x_test=rng.integers(0, 256, (200, 32, 32, 3), np.uint8),
        y_test=rng.integers(0, 9, 200, np.uint8),
        class_names=NAMES,
    )
    np.savez(HEAD, dev_accuracy=np.float64(0.25))
    write_model()


def write_model(factor: float = 0.02, bias: float = 0.0) -> keras.Model:
    """Write a model that looks at the mean colour, by a layer `logits` with random weights."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, name="logits"),
            keras.layers.Softmax(),
        ]
    )
    kernel, _ = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * factor, np.full(10, bias)])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    model.save(MODEL)
    return model


def test_measures_are_those_of_keras() -> None:
    evaluate.main(ALL)
    metrics = json.loads(METRICS.read_text())
    with np.load(DATASET) as data:
        x_dev, y_dev, x_test, y_test = (data[k] for k in ("x_dev", "y_dev", "x_test", "y_test"))
    one_hot = np.eye(10)
    model = keras.models.load_model(MODEL)
    of_test = model.evaluate(x_test, one_hot[y_test], verbose=0, return_dict=True)
    of_dev = model.evaluate(x_dev, one_hot[y_dev], verbose=0, return_dict=True)
    assert metrics["val_accuracy"] == pytest.approx(of_test["accuracy"], abs=1e-6)
    assert metrics["val_loss"] == pytest.approx(of_test["loss"], rel=1e-4)
    assert metrics["dev_accuracy_after_fine_tune"] == pytest.approx(of_dev["accuracy"], abs=1e-6)
    assert metrics["dev_accuracy_after_head"] == 0.25

    predicted = model.predict(x_test, verbose=0).argmax(axis=1)
    assert metrics["class_accuracy"] == {
        f"class {label}": pytest.approx(np.mean(predicted[y_test == label] == label), abs=1e-6)
        for label in range(9)  # there is no test image of class 9
    }
    assert 0 < metrics["val_accuracy"] < 1
    with CONFUSION.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["actual", "predicted"]
    assert rows[1:] == [list(row) for row in zip(NAMES[y_test], NAMES[predicted], strict=True)]
    assert json.loads(ENVIRONMENT.read_text())["keras"] == keras.__version__


@pytest.mark.parametrize(
    ("factor", "bias", "said"),
    [
        (1.0, np.nan, "cifar10.h5: .*logits/bias holds NaN or infinity; train again with a lower"),
        (np.inf, 0.0, "cifar10.h5: .*logits/kernel holds NaN or infinity; train again"),
        (1e38, 0.0, "cifar10.h5 gives NaN; train again with a lower fine_tune.learning_rate"),
    ],
)
def test_a_model_that_gives_no_numbers_is_not_measured(
    factor: float, bias: float, said: str
) -> None:
    write_model(factor, bias)
    METRICS.write_text("of the run before")
    with pytest.raises(PipelineError, match=said):
        evaluate.main(ALL)
    assert METRICS.read_text() == "of the run before"


def test_weights_alone_are_no_model() -> None:
    write_model().save_weights("cifar10.weights.h5")
    Path("cifar10.weights.h5").replace(MODEL)
    with pytest.raises(PipelineError, match=r"cifar10\.h5: damaged \(.*; run `dvc repro`"):
        evaluate.main(ALL)
