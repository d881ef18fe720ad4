"""Training: the best epoch is kept, NaN stops it, and where it resumes it ends in the same bits."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stages.errors import PipelineError
from stages.runtime import set_up
from stages.training import fit, recipe
from stages.training.batches import Batches
from stages.training.checkpoint import Checkpoint
from stages.training.cutmix import Batch
from stages.training.head import new_head

RNG = np.random.default_rng(1)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
DEV = Batches([X[:20]], Y[:20], 3, 20)
VIEWS = [RNG.normal(size=(300, 4, 4, 3)).astype(np.float16) for _ in range(2)]
LABELS = (VIEWS[0].mean((1, 2, 3)) > 0).astype(int)
EPOCHS = 5


def small_model(rate: float = 0.1) -> keras.Model:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8), new_head(3)])
    optimizer = recipe.optimizer(rate, steps=30)
    model.compile(optimizer, recipe.loss(), metrics=["accuracy"], jit_compile=False)
    return model


def small_batches(x: np.ndarray = X) -> Batches:
    return Batches([x], Y, 3, 20, seed=1)


def train_small(
    model: keras.Model, train: Batches | None = None, dev: Batches = DEV, **options: Any
) -> float:
    return fit.fit(model, train or small_batches(), dev, key="fine_tune", **options)


def rows(curve: Path) -> list[dict[str, float]]:
    if not curve.exists():
        return []
    with curve.open(newline="") as file:
        return [{name: float(v) for name, v in row.items()} for row in csv.DictReader(file)]


def test_the_weights_that_stay_are_those_of_the_best_epoch_on_dev(tmp_path: Path) -> None:
    set_up(3)
    model = small_model(0.9)  # so high that the dev accuracy goes up and down
    curve = tmp_path / "curve.csv"
    best = train_small(model, epochs=6, curve=curve)
    on_dev = [row["dev_accuracy"] for row in rows(curve)]
    assert [row["epoch"] for row in rows(curve)] == [1, 2, 3, 4, 5, 6]
    assert best == max(on_dev)
    assert on_dev[-1] < max(on_dev)  # else this test would show nothing
    measured = model.evaluate(DEV.dataset(), verbose=0, return_dict=True)["accuracy"]
    assert measured == best


def test_no_epochs_train_nothing(tmp_path: Path) -> None:
    model = small_model()
    before = model.get_weights()
    accuracy = train_small(model, epochs=0, curve=tmp_path / "curve.csv")
    (row,) = csv.DictReader((tmp_path / "curve.csv").read_text().splitlines())
    assert (row["epoch"], float(row["dev_accuracy"])) == ("0", accuracy)
    assert accuracy == pytest.approx(np.mean(Y[:20] == 0))  # all logits are zero
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def test_a_loss_that_is_no_number_stops_with_a_line(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    broken = X.copy()
    broken[7] = np.nan
    where, fault = "of epoch 1, at a learning rate of", "fine_tune: the loss"
    expected = rf"{fault} became nan in step [123] {where} 0\.0\d+; lower"
    with pytest.raises(PipelineError, match=expected):
        train_small(small_model(), small_batches(broken), epochs=1, curve=curve)
    with pytest.raises(PipelineError, match=f"{fault} on dev is nan at the end {where} .*; lower"):
        train_small(small_model(), dev=small_batches(broken), epochs=1, curve=curve)


def test_the_curve_grows_while_training(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    seen: list[int] = []

    class Dev(Batches):
        """Measured at the end of each epoch: notes how long the curve is then."""

        def __iter__(self) -> Iterator[Batch]:
            seen.append(len(rows(curve)))
            return super().__iter__()

    train(3, curve, dev=Dev(VIEWS[:1], LABELS, 2, 300))
    assert seen == [0, 1, 2]
    assert [row["epoch"] for row in rows(curve)] == [1, 2, 3]


def train(
    epochs: int, curve: Path, checkpoint: Checkpoint | None = None, dev: Batches | None = None
) -> tuple[list[np.ndarray], float]:
    """Train a net with all that has a state: momentum, averages, dropout, order, CutMix."""
    set_up(3)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.Conv2D(4, 1),  # a matrix: Muon; AdamW for the rest
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            new_head(2),
        ]
    )
    batches = Batches(VIEWS, LABELS, 2, 32, seed=1, cutmix_fraction=0.5)
    optimizer = recipe.optimizer(0.03, EPOCHS * len(batches), 0.02, "muon")
    model.compile(optimizer, recipe.loss(), metrics=["accuracy"], jit_compile=False)
    dev = dev or Batches(VIEWS[:1], LABELS, 2, 32)
    accuracy = fit.fit(
        model, batches, dev, epochs=epochs, curve=curve, key="fine_tune", checkpoint=checkpoint
    )
    return model.get_weights(), accuracy


def test_training_that_goes_on_ends_in_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = tmp_path / "curve.csv"
    weights, accuracy = train(EPOCHS, curve)
    whole = rows(curve)
    assert np.argmax([row["dev_accuracy"] for row in whole]) > 0  # the best is not the first
    for after in (2, EPOCHS):
        checkpoint = Checkpoint(tmp_path / "a.npz", f"run {after}")
        train(after, curve, checkpoint)  # as if it was killed then
        curve.unlink()  # DVC removes it
        capsys.readouterr()
        resumed, again = train(EPOCHS, curve, checkpoint)
        assert f"resuming after epoch {after} of {EPOCHS}" in capsys.readouterr().out
        assert (again, rows(curve)) == (accuracy, whole)
        for a, b in zip(weights, resumed, strict=True):
            np.testing.assert_array_equal(a, b)
