"""Arrays of an .npz, mapped."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages.transfer.dataset import mapped
from stages.transfer.errors import PipelineError


@given(
    arrays=st.dictionaries(
        st.text("abcxyz_", min_size=1, max_size=30),
        hnp.arrays(
            st.sampled_from([np.uint8, np.int64, np.float32]),
            hnp.array_shapes(max_dims=4, max_side=5),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_mapped_is_what_was_saved(
    arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    for name, array in arrays.items():
        found = mapped(path, name)
        assert isinstance(found, np.memmap)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_columns_first_is_mapped_too(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    np.savez(tmp_path / "a.npz", x=array)
    np.testing.assert_array_equal(mapped(tmp_path / "a.npz", "x"), array)


def test_a_compressed_array_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(9))
    with pytest.raises(PipelineError, match=r"damaged .*compressed"):
        mapped(tmp_path / "a.npz", "x")
