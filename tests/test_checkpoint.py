"""The checkpoint: what is damaged, or by its fingerprint of another run, is not used."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.training.checkpoint import Checkpoint

ARRAYS = {"variable0": np.arange(20.0), "best": np.ones(3, "f4"), "curve": np.array("[{}]")}


def test_it_serves_its_own_run_only_and_is_removed_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint(tmp_path / "new/a.npz", "this run")
    assert checkpoint.load() is None
    checkpoint.save({"x": np.zeros(3)})
    checkpoint.save(ARRAYS)
    found = Checkpoint(checkpoint.path, "this run").load()
    assert found
    assert found.keys() == ARRAYS.keys()

    assert Checkpoint(checkpoint.path, "another run").load() is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "a.npz: from a different run (settings, inputs, code or environment); starting" in line

    checkpoint.remove()
    checkpoint.remove()
    assert list((tmp_path / "new").iterdir()) == []


@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3),
    share=st.just(1.0) | st.floats(0, 1),
)
def test_a_damaged_one_is_none_or_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]], share: float
) -> None:
    checkpoint = Checkpoint(tmp_path_factory.getbasetemp() / "damaged.npz", "this run")
    checkpoint.save(ARRAYS)
    data = bytearray(checkpoint.path.read_bytes())
    for place, change in flips:
        data[int(place * len(data))] ^= change
    checkpoint.path.write_bytes(data[: round(share * len(data))])
    with contextlib.redirect_stdout(io.StringIO()) as said:
        found = checkpoint.load()
    if found is None:
        assert "damaged" in said.getvalue() or "from a different run" in said.getvalue()
        return
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
