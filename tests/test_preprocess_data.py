"""`preprocess_data`, the user's function in 0-transfer.py."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.conftest import PROJECT

preprocess_data = importlib.import_module("0-transfer").preprocess_data


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


def test_alone_in_a_folder_it_needs_numpy_only(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "0-transfer.py", tmp_path)
    code = (
        "import sys; t = __import__('0-transfer'); t.preprocess_data;"
        "print({'tensorflow', 'keras', 'stages'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert out == "set()\n"
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".h5"] == []


def test_keras_gets_the_name_that_the_users_check_reads() -> None:
    import tensorflow.keras as K  # noqa: N812 - as the user writes it

    had = K.backend.__dict__.pop("learning_phase", None)
    importlib.import_module("0-transfer").provide_learning_phase()
    assert K.backend.learning_phase is not had
