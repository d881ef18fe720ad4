"""The stage `features`: rows that depend on the rest of a batch are neither copied nor kept."""

from collections.abc import Generator, Iterable

import numpy as np
import numpy.typing as npt
import pytest

from stages import features, params, paths
from stages.data.activations import KEY, Prefix
from stages.training import cpu
from tests.conftest import Project


class Dependent(Prefix):
    """As on some processors; interrupted at the 151st image that it computes."""

    def is_independent(self, images: npt.NDArray) -> bool:
        return False

    def __call__(self, images: Iterable[npt.NDArray]) -> Generator[npt.NDArray]:
        for number, row in enumerate(super().__call__(images)):
            if number == 150:
                raise KeyboardInterrupt
            yield row


def test_rows_that_depend_on_a_batch_are_computed_again(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though DVC has all of them, and the second run those of the first."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("RAY_ADDRESS", "")  # like unset
    monkeypatch.setattr(features, "Prefix", Dependent)
    monkeypatch.setattr(cpu, "set_up", bool)  # it concerns the whole process
    (row,) = np.load(paths.dev_features())[:1]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            features.main(params.load())
        assert "all rows are computed, none copied" in capsys.readouterr().out
        (kept,) = paths.KEPT_FEATURES.iterdir()
        assert kept.stat().st_size == 150 * (KEY + row.nbytes)
