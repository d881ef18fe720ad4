"""Activations: each row computed once, whatever is in its batch, whatever interrupts."""

import resource
import shutil
import tracemalloc
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.data.activations import KEY, Prefix, Store
from stages.data.views import View
from stages.errors import PipelineError
from stages.files import mapped, replacing
from tests.conftest import ALL

ROW = 4 * 4 * 3 * 2  # bytes
IMAGES = np.random.default_rng(1).integers(0, 256, (2500, 8, 8, 3)).astype(np.uint8)


def write(top: Path, prefix: Prefix, basis: str = "basis", **parts: Any) -> None:
    """Store images as the stage does."""
    outputs = top / "features", top / "keys"
    with replacing(outputs[1]) as keys, replacing(outputs[0]) as features:
        features.mkdir()
        keys.mkdir()
        store = Store(basis, prefix, {}, top / "kept")
        for name, images in parts.items():
            store.write(features / f"{name}.npy", keys, images)
    shutil.rmtree(top / "kept", ignore_errors=True)


class Counted(Prefix):
    """A prefix that counts what it computes and can be interrupted."""

    def __init__(self, limit: int = 10**9, side: int = 8) -> None:
        # The same bits in any batch on any processor.
        pooling = keras.layers.AveragePooling2D(2)
        super().__init__(keras.Sequential([keras.Input((side, side, 3)), pooling]), batch_size=50)
        self.count, self._limit = 0, limit

    def __call__(self, images: Iterable[npt.NDArray]) -> Generator[npt.NDArray]:
        for row in super().__call__(images):
            if self.count == self._limit:
                raise KeyboardInterrupt
            self.count += 1
            yield row


def computed(top: Path, basis: str = "basis", **parts: Any) -> int:
    """Store images; return how many rows were computed, and compare them all."""
    prefix = Counted()
    write(top, prefix, basis, **parts)
    for name, images in parts.items():
        stored = mapped(top / f"features/{name}.npy")
        np.testing.assert_array_equal(stored, np.stack([*Counted()(images)]))
        assert (top / f"keys/{name}.keys").stat().st_size == KEY * len(images)
    assert len([path for path in top.rglob("*") if path.is_file()]) == 2 * len(parts)
    for name in ("features", "keys"):
        shutil.rmtree(top / name)  # as DVC does before it runs the stage
    return prefix.count


def interrupted(top: Path, limit: int, **parts: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(top, Counted(limit), **parts)
    assert {path.name for path in top.glob("*")} <= {"kept"}


def test_what_is_stored_is_what_the_model_gives(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    write(tmp_path, Prefix(model, batch_size=10), a=IMAGES[:25])
    stored = mapped(tmp_path / "features/a.npy")
    assert stored.dtype == np.float16
    expected = model.predict(IMAGES[:25], verbose=0).astype(np.float16)
    np.testing.assert_array_equal(stored, expected)


def test_an_activation_beyond_float16_is_an_error(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1e5)])
    beyond = Prefix(model, batch_size=2)
    with pytest.raises(PipelineError, match=r"a: an activation of 1e\+05 does not fit float16"):
        write(tmp_path, beyond, a=np.ones((3, 2)))


CONVOLVING = Prefix(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]), 10)


@given(st.permutations(range(35)), st.integers(1, 35))
def test_other_images_of_a_batch_change_no_bit(order: list[int], count: int) -> None:
    """Unless `is_independent` tells so, which depends on the net and the processor."""
    if not CONVOLVING.is_independent(IMAGES[:10]):
        pytest.skip("on this processor a convolution depends on the rest of the batch")
    some = order[:count]
    rows = np.stack([*CONVOLVING(IMAGES[:35])])
    np.testing.assert_array_equal(np.stack([*CONVOLVING(IMAGES[some])]), rows[some])


def test_dependence_on_the_rest_of_a_batch_is_noticed() -> None:
    class Centered(keras.layers.Layer):
        def call(self, x):  # type: ignore[no-untyped-def]
            return x - keras.ops.mean(x)

    images = IMAGES[:8].astype(np.float32)
    assert Counted().is_independent(IMAGES[:8])
    centered = keras.Sequential([keras.Input((8, 8, 3)), Centered()])
    assert not Prefix(centered, batch_size=8).is_independent(images)


@pytest.mark.parametrize("limit", [0, 1, 999, 1000, 1500, 2499])
def test_an_interrupted_run_is_continued(tmp_path: Path, limit: int) -> None:
    interrupted(tmp_path, limit, a=IMAGES)
    assert computed(tmp_path, a=IMAGES) == 2500 - limit


def test_an_interrupted_run_keeps_the_rows_of_all_its_files(tmp_path: Path) -> None:
    files: dict[str, Any] = {name: IMAGES[800 * i : 800 * (i + 1)] for i, name in enumerate("abc")}
    interrupted(tmp_path, 2000, **files)
    assert computed(tmp_path, **files) == 400


def test_rows_of_an_interrupted_run_serve_another(tmp_path: Path) -> None:
    interrupted(tmp_path, 2100, a=IMAGES)
    interrupted(tmp_path, 0, a=IMAGES[::-1])
    assert computed(tmp_path, a=IMAGES[1:]) == 400
    interrupted(tmp_path, 1200, a=IMAGES)
    interrupted(tmp_path, 900, a=IMAGES)
    assert computed(tmp_path, a=IMAGES[1:][::-1]) == 400
    interrupted(tmp_path, 2100, a=IMAGES)
    assert computed(tmp_path, a=IMAGES, basis="another") == 2500


def test_rows_of_another_shape_are_not_mixed_with_these(tmp_path: Path) -> None:
    """With `cut: none` a row is an image, of the size at which photos are stored."""
    interrupted(tmp_path, 2100, a=IMAGES)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, Counted(2100, side=4), a=IMAGES[:, :4, :4])
    assert computed(tmp_path, a=IMAGES) == 2500


@pytest.mark.parametrize("size", [None, 0, 1, 100, 10_000])
def test_a_damaged_file_of_an_interrupted_run_is_computed_again(
    tmp_path: Path, size: int | None
) -> None:
    """Missing, or truncated anywhere; the rest is used."""
    interrupted(tmp_path, 2100, a=IMAGES)
    (path,) = (tmp_path / "kept").iterdir()
    path.unlink() if size is None else path.write_bytes(path.read_bytes()[:size])
    interrupted(tmp_path, 500, a=IMAGES)  # appended to what is left
    assert computed(tmp_path, a=IMAGES) == 2500 - (size or 0) // (KEY + ROW) - 500
    assert computed(tmp_path, a=IMAGES) == 2500  # nothing was left to be copied


COMPUTED = np.concatenate([IMAGES[:1000], IMAGES[:500], IMAGES[2000:2100]])


@pytest.mark.parametrize(
    ("limit", "kept", "images", "rows"),
    [
        (150_000, 0, IMAGES, 150_000 // (KEY + ROW)),
        (200_000, 0, IMAGES, 200_000 // (KEY + ROW)),
        (150_000, 2000, IMAGES[:1900], 2000),
        (150_000, 1000, COMPUTED, 1100),
    ],
    ids=["kept", "kept later", "copied, known", "copied, computed"],
)
def test_a_full_disk_is_an_error_and_leaves_no_output(
    tmp_path: Path, limit: int, kept: int, images: npt.NDArray, rows: int
) -> None:
    """While a row is kept, or one is copied to the output; then the run is continued."""
    interrupted(tmp_path, kept, a=IMAGES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Bytes; a write beyond it fails. A row takes 96 in the output, 128 where it is kept.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/features'"):
            write(tmp_path, Counted(), a=images)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.glob("*")] == ["kept"]
    assert computed(tmp_path, a=IMAGES) == 2500 - rows


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(1000, np.float16))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(PipelineError, match=r"a\.npy: damaged \(.*; run `dvc repro`"):
        mapped(path)


def test_memory_does_not_grow_with_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views are made in pieces, and so are activations."""
    monkeypatch.setattr("loky.cpu_count", lambda: 2)  # batches in flight take memory
    pooling = keras.layers.AveragePooling2D(4)
    model = Prefix(keras.Sequential([keras.Input((32, 32, 3)), pooling]), batch_size=50)
    settings = ALL.features

    def peak(count: int) -> int:
        images = np.broadcast_to(np.zeros(1, np.uint8), (count, 32, 32, 3))  # takes no memory
        tracemalloc.start()
        write(tmp_path, model, a=View(images, 1, settings))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(100)  # what the first call leaves in caches
    few, many = peak(1500), peak(15_000)
    assert many - few < 100 * (15_000 - 1500)  # bytes; of an image 3,072 go in, and 384 are stored
