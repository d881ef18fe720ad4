"""Checkpoints: training that goes on ends in the same bits, and what is stale is left alone."""

import contextlib
import io
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.transfer import params, recipe, training
from stages.transfer.batches import Batches
from stages.transfer.checkpoints import Checkpoints, fingerprint
from stages.transfer.determinism import make_deterministic
from stages.transfer.interruption import clear_checkpoints
from tests.conftest import Project, one_line

RNG = np.random.default_rng(1)
VIEWS = [RNG.normal(size=(300, 4, 4, 3)).astype(np.float16) for _ in range(2)]
LABELS = (VIEWS[0].mean((1, 2, 3)) > 0).astype(int)
EPOCHS = 5


class Interrupting(Checkpoints):
    """Ends training right after an epoch's checkpoint, as a kill would."""

    after = 0

    def save(self, name: str, arrays: Any) -> None:
        super().save(name, arrays)
        if len(json.loads(str(arrays["curve"]))) == self.after:
            raise KeyboardInterrupt


def train(checkpoints: Checkpoints | None) -> tuple[list[np.ndarray], training.Fit]:
    """Train a net with all that has a state: momentum, averages, dropout, order, CutMix."""
    make_deterministic(3)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            recipe.head(2),
        ]
    )
    train = Batches(VIEWS, LABELS, 2, 32, seed=1, cutmix_share=0.5)
    dev = Batches(VIEWS[:1], LABELS, 2, 32)
    steps = EPOCHS * len(train)
    model.compile(
        recipe.optimizer(0.03, steps, 0.1, 0.02),
        recipe.loss(),
        metrics=["accuracy"],
        jit_compile=False,
    )
    result = training.fit(
        model, train, dev=dev, epochs=EPOCHS, key="fine_tune", checkpoints=checkpoints
    )
    return model.get_weights(), result


def test_training_that_goes_on_ends_in_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, result = train(None)
    assert np.argmax([row["dev_accuracy"] for row in result.curve]) > 0  # the best is not the first
    for after in (1, 2, EPOCHS):
        interrupting = Interrupting("fine_tune", {"run": after}, tmp_path)
        interrupting.after = after
        with pytest.raises(KeyboardInterrupt):
            train(interrupting)
        capsys.readouterr()
        resumed, again = train(Checkpoints("fine_tune", {"run": after}, tmp_path))
        assert f"goes on after epoch {after} of {EPOCHS}" in capsys.readouterr().out
        assert again == result
        assert all((a == b).all() for a, b in zip(weights, resumed, strict=True))


@pytest.mark.faults
def test_without_what_the_checkpoint_holds_the_bits_differ(tmp_path: Path) -> None:
    """Else the test above would show nothing: each part of the state matters."""
    weights, _ = train(None)
    interrupting = Interrupting("fine_tune", {}, tmp_path)
    interrupting.after = 2
    with pytest.raises(KeyboardInterrupt):
        train(interrupting)
    saved = interrupting.load("training")
    assert saved
    for name in [name for name in saved if name.startswith("variable")]:
        changed = saved | {name: np.zeros_like(saved[name])}
        if (changed[name] == saved[name]).all():
            continue
        Checkpoints("fine_tune", {}, tmp_path).save("training", changed)
        resumed, _ = train(Checkpoints("fine_tune", {}, tmp_path))
        assert any((a != b).any() for a, b in zip(weights, resumed, strict=True)), name


def method_unknown(data: bytes) -> bytes:
    """Change the compression method in the first entry of a zip's directory."""
    at = data.index(b"PK\x01\x02") + 10
    return data[:at] + b"\x63" + data[at + 1 :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"\x00" * 8, b"\x01" * 8, 3)),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(method_unknown(path.read_bytes())),
        lambda path: np.savez(path, x=np.zeros(1000)),
    ],
)
def test_a_damaged_checkpoint_is_none(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    checkpoints = Checkpoints("fine_tune", {"a": 1}, tmp_path)
    checkpoints.save("training", {"x": np.zeros(1000), "y": np.ones(3)})
    assert Checkpoints("fine_tune", {"a": 1}, tmp_path).load("training")
    spoil(tmp_path / "fine_tune/training.npz")
    assert Checkpoints("fine_tune", {"a": 1}, tmp_path).load("training") is None


@given(place=st.integers(0, 2000), byte=st.integers(0, 255))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_byte_changed_anywhere_gives_none_or_what_was_written(
    tmp_path: Path, place: int, byte: int
) -> None:
    arrays = {"variable0": np.arange(20.0), "best": np.ones(3, "f4"), "curve": np.array("[{}]")}
    checkpoints = Checkpoints("fine_tune", {}, tmp_path)
    checkpoints.save("training", arrays)
    path = tmp_path / "fine_tune/training.npz"
    data = bytearray(path.read_bytes())
    data[place % len(data)] = byte
    path.write_bytes(data)
    with contextlib.redirect_stdout(io.StringIO()):
        found = checkpoints.load("training")
    if found is not None:
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("record", [b"", b"[]", b"{", b'{"params": 2}', b"\xff"])
def test_a_folder_without_its_fingerprint_is_removed(tmp_path: Path, record: bytes) -> None:
    checkpoints = Checkpoints("fine_tune", {"params": 1}, tmp_path)
    checkpoints.save("training", {"x": np.zeros(3)})
    (tmp_path / "fine_tune/fingerprint.json").write_bytes(record)
    assert Checkpoints("fine_tune", {"params": 1}, tmp_path).load("training") is None


def test_a_file_that_changed_after_it_was_finished_is_not_there(tmp_path: Path) -> None:
    """Through an output that shares its bytes, say, edited in place."""
    checkpoints = Checkpoints("features", {}, tmp_path)
    assert not checkpoints.has("a.npy")
    with checkpoints.writing("a.npy") as path:
        path.write_bytes(b"finished")
        assert not checkpoints.has("a.npy")
    assert Checkpoints("features", {}, tmp_path).has("a.npy")
    output = tmp_path / "output.npy"
    output.hardlink_to(checkpoints.folder / "a.npy")
    output.chmod(0o444)  # as DVC does
    assert checkpoints.has("a.npy")
    output.chmod(0o644)
    output.write_bytes(b"finished")
    assert not checkpoints.has("a.npy")


def test_a_stage_removes_the_checkpoints_of_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in ("features", "fine_tune"):
        Checkpoints(stage, {})
    clear_checkpoints(("download", "features"))
    assert len(list(Path("data/checkpoints").iterdir())) == 2  # there are no features yet
    Path("data/features").mkdir()
    clear_checkpoints(("download", "features"))
    assert [path.name for path in Path("data/checkpoints").iterdir()] == ["fine_tune"]


@pytest.mark.faults
def test_a_stage_run_by_hand_leaves_the_checkpoints_of_others(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path)
    kept = project.folder / "data/checkpoints/fine_tune"
    kept.mkdir(parents=True)
    assert project.stage("gate").returncode == 0
    assert "gate: passed" in project.dvc("repro", "-f", "-s", "gate").stdout
    assert kept.exists()
    result = project.stage("evaluate")
    assert result.returncode == 0, result.stderr
    assert kept.exists()
    assert project.dvc("repro", "-f", "-s", "evaluate").returncode == 0
    assert not kept.exists()


def test_settings_that_change_while_a_stage_runs_are_not_recorded(
    finished: Project, tmp_path: Path
) -> None:
    """DVC notes what stands in params.yaml when the stage has ended."""
    project = finished.copy(tmp_path)
    path = project.folder / "stages/preprocess.py"
    changes = "Path('params.yaml').write_text(Path('params.yaml').read_text().replace"
    path.write_text(
        path.read_text() + "\n\nwhole = main\n\ndef main(params):\n    from pathlib import Path\n"
        f"    whole(params)\n    {changes}('0.87', '0.8').replace('dev_fraction: 0.1', "
        "'dev_fraction: 0.2'))\n"
    )
    project.set(preprocess={"dev_fraction": 0.1}, gate={"minimum": 0.87})
    result = project.dvc("repro", "-s", "preprocess")
    assert result.returncode != 0
    said = "error: params.yaml: preprocess changed while preprocess ran"
    assert said in result.stderr, result.stdout + result.stderr
    assert "dev_fraction: 0.2" in (project.folder / "params.yaml").read_text()


def test_a_stale_checkpoint_is_removed_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoints("features", {"params": 1, "deps": 2}, tmp_path).save("a", {"x": np.zeros(3)})
    later = Checkpoints("features", {"params": 3, "deps": 2}, tmp_path)
    assert later.load("a") is None
    assert "of a run with other params; begins anew" in capsys.readouterr().out


def test_the_fingerprint_has_all_that_the_result_depends_on(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = finished.copy(tmp_path)
    monkeypatch.chdir(project.folder)

    def now() -> dict[str, Any]:
        return fingerprint("fine_tune", params.load())

    prints = {"as it is": now()}
    assert now() == prints["as it is"]
    project.set(gate={"minimum": 0.5})
    assert now() == prints["as it is"]  # fine-tuning does not depend on it
    project.set(fine_tune={"seed": 9})
    prints["another seed"] = now()
    (project.folder / "data/head/head.npz").write_bytes(b"other")
    prints["another head"] = now()
    np.save(project.folder / "data/features/train_view1.npy", np.zeros((270, 2, 2, 512), "f2"))
    prints["other features"] = now()
    with (project.folder / "stages/transfer/recipe.py").open("a") as file:
        file.write("# changed\n")
    prints["another recipe"] = now()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    prints["other threads"] = now()
    monkeypatch.setattr(metadata, "version", lambda _: "9.9")
    prints["another Keras"] = now()
    assert len({json.dumps(each) for each in prints.values()}) == len(prints)


def test_a_learning_rate_that_makes_the_loss_infinite_is_one_line(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path)
    project.set(fine_tune={"learning_rate": 1.0, "weight_decay": 0.0, "epochs": 40})
    weights = project.folder / "data/head/head.npz"
    with np.load(weights) as head:
        arrays = dict(head)
    np.savez(weights, **arrays | {"kernel": np.full_like(arrays["kernel"], 1e38)})
    line = one_line(project.stage("fine_tune"))
    assert "error: fine_tune: the loss became" in line
    assert "in step 1 of epoch 1, at a rate of" in line
    assert "lower fine_tune.learning_rate" in line
