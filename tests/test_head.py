"""The head: it starts at zero, survives its file, and does not take another net's."""

from pathlib import Path

import keras
import numpy as np
import pytest

from stages.errors import PipelineError
from stages.training.head import load_head, new_head, save_head, with_head


def head_for(channels: int) -> keras.layers.Dense:
    """Return a head that is part of a model with so many features."""
    x = keras.Input((channels,))
    suffix = keras.Model(x, keras.layers.Identity()(x))
    head = new_head(10)
    assert with_head(suffix, head).output_shape == (None, 10)
    return head


def test_a_head_survives_its_file_and_another_nets_head_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    head = head_for(7)
    assert not np.any(head.kernel)
    kernel = np.random.default_rng(1).normal(size=(7, 10)).astype(np.float32)
    head.set_weights([kernel, np.arange(10)])
    save_head(head, path)
    same = head_for(7)
    load_head(path, same)
    np.testing.assert_array_equal(same.kernel, kernel)
    np.testing.assert_array_equal(same.bias, np.arange(10))

    with pytest.raises(
        PipelineError, match=r"head\.npz: damaged .*\(8, 10\) is not compatible.*\(7, 10\)"
    ):
        load_head(path, head_for(8))
    np.savez(path, kernel=kernel)
    with pytest.raises(PipelineError, match=r"head\.npz: damaged .*bias.*; run `dvc repro`"):
        load_head(path, same)
