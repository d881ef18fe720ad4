"""Training: the best epoch on dev is kept, the same seed gives the same bits, NaN stops it."""

import csv
import math
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.transfer import recipe, training
from stages.transfer.determinism import make_deterministic
from stages.transfer.errors import PipelineError

RNG = np.random.default_rng(1)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = np.eye(3)[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0)]


def small_model(rate: float = 0.1) -> keras.Model:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8), recipe.head(3)])
    model.compile(recipe.optimizer(rate, 30), recipe.loss(), metrics=["accuracy"])
    return model


def test_the_weights_that_stay_are_those_of_the_best_epoch_on_dev() -> None:
    make_deterministic(5)
    model = small_model(0.9)  # so high that the dev accuracy goes up and down
    result = training.fit(model, X, Y, dev=(X[:20], Y[:20]), epochs=6, batch_size=20, key="k")
    on_dev = [row["dev_accuracy"] for row in result.curve]
    assert [row["epoch"] for row in result.curve] == [1, 2, 3, 4, 5, 6]
    assert result.dev_accuracy == max(on_dev)
    assert on_dev[-1] < max(on_dev)  # else this test would show nothing
    measured = model.evaluate(X[:20], Y[:20], verbose=0, return_dict=True)["accuracy"]
    assert measured == result.dev_accuracy


def test_no_epochs_train_nothing() -> None:
    model = small_model()
    before = model.get_weights()
    result = training.fit(model, X, Y, dev=(X, Y), epochs=0, batch_size=20, key="k")
    assert result.curve == []
    assert result.dev_accuracy == pytest.approx(Y[:, 0].mean())  # all logits are zero
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def test_the_same_seed_gives_the_same_bits() -> None:
    def run(seed: int) -> list[np.ndarray]:
        make_deterministic(seed)
        model = small_model()
        training.fit(model, X, Y, dev=(X, Y), epochs=2, batch_size=20, key="k")
        return model.get_weights()

    first, again, other = run(1), run(1), run(2)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_a_loss_that_is_no_number_stops_with_a_line() -> None:
    x = X.copy()
    x[7] = np.nan
    expected = r"fine_tune: the loss became nan in step [123] of epoch 1, at a rate of 0\.0[89]"
    with pytest.raises(PipelineError, match=expected):
        training.fit(small_model(), x, Y, dev=(X, Y), epochs=3, batch_size=20, key="fine_tune")


def test_weights_that_blow_up_in_the_last_step_are_seen_on_dev() -> None:
    model = small_model()
    x_dev = X.copy()
    x_dev[3] = np.inf
    with pytest.raises(PipelineError, match=r"the loss on dev is nan after epoch 1, at a rate"):
        training.fit(model, X, Y, dev=(x_dev, Y), epochs=1, batch_size=20, key="fine_tune")


def test_a_curve_is_a_table_for_plots(tmp_path: Path) -> None:
    row = {"epoch": 1, "accuracy": 0.5, "loss": 1.0, "dev_accuracy": 0.25, "dev_loss": 2.0}
    training.write_curve([row], tmp_path / "curve.csv")
    with (tmp_path / "curve.csv").open() as file:
        (read,) = csv.DictReader(file)
    assert {name: float(value) for name, value in read.items()} == row


@given(peak=st.floats(1e-5, 1), steps=st.integers(2, 1000), warmup=st.floats(0, 0.9))
def test_the_rate_rises_to_its_peak_and_falls_to_zero(
    peak: float, steps: int, warmup: float
) -> None:
    schedule = recipe.learning_rate(peak, steps, warmup)
    rising = round(steps * warmup)
    assert float(schedule(rising)) == pytest.approx(peak, rel=1e-3)
    assert float(schedule(steps)) == pytest.approx(0, abs=peak * 1e-4)
    assert all(0 <= float(schedule(s)) <= peak * 1.001 for s in {0, steps // 3, steps - 1})


def test_no_steps_are_a_schedule_too() -> None:
    assert math.isfinite(float(recipe.learning_rate(0.1, 0, 0.1)(0)))
