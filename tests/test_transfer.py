"""0-transfer.py: `preprocess_data`, which can be used alone, and the pipeline as one script."""

import importlib
import os
import shutil
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.conftest import PROJECT, Project, one_line

transfer = importlib.import_module("0-transfer")
preprocess_data = transfer.preprocess_data


def images(m: int, dtype: str = "uint8") -> np.ndarray:
    return np.full((m, 32, 32, 3), 7, dtype)


@given(
    labels=hnp.arrays(np.int64, st.integers(0, 20), elements=st.integers(0, 9)),
    dtype=st.sampled_from(["uint8", "int64", "float32", "float64"]),
    label_dtype=st.sampled_from(["uint8", "int64"]),
    column=st.booleans(),
)
def test_values_are_kept_and_labels_are_one_hot(
    labels: np.ndarray, dtype: str, label_dtype: str, column: bool
) -> None:
    m = len(labels)
    given_labels = labels.astype(label_dtype).reshape((m, 1) if column else (m,))
    x_p, y_p = preprocess_data(images(m, dtype), given_labels)
    assert x_p.dtype == y_p.dtype == np.float32
    assert x_p.shape == (m, 32, 32, 3)
    assert y_p.shape == (m, 10)
    assert (x_p == 7).all()
    assert (y_p.argmax(axis=1) == labels).all() or m == 0
    assert (y_p.sum(axis=1) == 1).all()


def test_the_images_given_are_not_changed() -> None:
    x = images(2, "float32")
    x_p, _ = preprocess_data(x, np.zeros(2, int))
    x_p[:] = 0
    assert (x == 7).all()


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        (images(2)[0], [1], "(32, 32, 3)"),
        (np.zeros((2, 3, 32, 32), "uint8"), [1, 2], "(2, 3, 32, 32)"),
        (images(2).astype(str), [1, 2], "dtype"),
        (images(2).astype(bool), [1, 2], "bool"),
        (images(2, "int64") - 8, [1, 2], "-1"),
        (images(2, "float32") * np.nan, [1, 2], "nan"),
        (images(2, "int64") + 249, [1, 2], "256"),
        (images(2), [1], "(1,)"),
        (images(2), [[1, 2]], "(1, 2)"),
        (images(2), [1.0, 2.0], "float64"),
        (images(2), ["1", "2"], "dtype"),
        (images(2), [1, 10], "10"),
        (images(2), [1, -1], "-1"),
    ],
)
def test_what_is_wrong_is_named(x: np.ndarray, y: list, named: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        preprocess_data(x, np.array(y))
    assert named in str(error.value)


@pytest.mark.filterwarnings("error")
def test_images_that_were_scaled_already_are_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"X lies in \[0, 1\], expected \[0, 255\]"):
        preprocess_data(images(2) / 255, np.array([1, 2]))
    preprocess_data(images(2) * 0, np.array([1, 2]))  # black, and integers
    preprocess_data(images(2, "float32"), np.array([1, 2]))


def test_alone_in_a_folder_it_needs_numpy_only(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "0-transfer.py", tmp_path)
    code = (
        "import sys; import numpy as np; t = __import__('0-transfer')\n"
        "print(t.preprocess_data(np.zeros((1, 32, 32, 3), 'uint8'), np.array([9]))[1])\n"
        "print({name for name in sys.modules if '.' not in name} & set(sys.argv))"
    )
    others = ["tensorflow", "keras", "stages", "dvc", "yaml", "pydantic", "h5py"]
    done = Project(tmp_path, tmp_path).run(sys.executable, "-c", code, *others)
    assert done.stdout == "[[0. 0. 0. 0. 0. 0. 0. 0. 0. 1.]]\nset()\n", done.stderr


def test_it_leaves_the_model_where_the_user_is(project: Project, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (project.folder / "cifar10.h5").unlink()  # the cache has it
    script, path = str(project.folder / "0-transfer.py"), os.environ["PATH"]  # not as activated
    run = Project(here, Path("../project/mirror")).run(sys.executable, script, PATH=path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Running stage" not in run.stdout
    assert run.stdout.endswith(f"saved {here / 'cifar10.h5'}\n")
    assert (here / "cifar10.h5").read_bytes() == (project.folder / "cifar10.h5").read_bytes()
    assert [path.name for path in here.iterdir()] == ["cifar10.h5"]


def test_two_runs_can_save_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, copy = tmp_path / "model", tmp_path / "cifar10.h5", shutil.copyfile
    source.write_bytes(b"model")

    def copy_while_another_run_saves(*paths: Path) -> Path:
        monkeypatch.undo()
        copy(*paths)
        transfer.save(source, target)
        return paths[1]

    monkeypatch.setattr(shutil, "copyfile", copy_while_another_run_saves)
    transfer.save(source, target)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"model"] * 2
    assert target.stat().st_mode == source.stat().st_mode  # a normal new file's


def test_dvc_is_given_the_name_and_the_home_that_a_user_id_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert transfer.environment().items() >= {"USER": "me", "HOME": str(tmp_path)}.items()
    monkeypatch.delenv("USER")
    monkeypatch.setenv("HOME", "/missing")
    lacking = {"USER": str(os.getuid()), "HOME": str(PROJECT / ".venv")}
    assert transfer.environment().items() >= lacking.items()
    monkeypatch.delenv("HOME")
    assert transfer.environment().items() >= lacking.items()


def test_a_relative_mirror_is_seen_from_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mirror").mkdir()
    monkeypatch.chdir(tmp_path)
    for mirror, seen in (("mirror", str(tmp_path / "mirror")), ("http://host", "http://host")):
        monkeypatch.setenv("MIRROR", mirror)
        assert transfer.environment()["MIRROR"] == seen


def test_it_refuses_before_any_work(fresh: Project, tmp_path: Path) -> None:
    script = str(fresh.folder / "0-transfer.py")
    assert "expected no arguments" in one_line(fresh.run(sys.executable, script, "--epochs=3"))
    shutil.copy(script, tmp_path)
    alone = Project(tmp_path, tmp_path)
    assert "has no folder stages" in one_line(alone.run(sys.executable, "0-transfer.py"))
    (tmp_path / "cifar10.h5").mkdir()
    assert "cannot be written" in one_line(alone.run(sys.executable, script))
    other = fresh.copy(tmp_path / "other")
    other.set(data={"name": "flowers"})
    (other.folder / "data/images/flowers/rose").mkdir(parents=True)
    said = one_line(other.run(sys.executable, "0-transfer.py"))
    assert said.startswith("error: data.name in params.yaml is flowers; this file trains cif")
    venv.create(tmp_path / "bare")
    said = one_line(fresh.run(str(tmp_path / "bare/bin/python"), script))
    assert said.startswith(f"error: {tmp_path}/bare/bin/python lacks dvc; run `make reproduce`, ")
    assert not (fresh.folder / "data/images").exists()
