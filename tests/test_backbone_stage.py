"""The backbone stage: which weights files it takes, and what it says of the others."""

import functools
import http.server
import threading
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from stages import backbone
from stages.errors import PipelineError
from stages.files import digest
from stages.nets.pretrained import WeightsFile, original
from stages.paths import WEIGHTS
from tests.conftest import ALL


def small_net() -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder to be in, an empty mirror in it, and MobileNetV2 a single layer."""
    monkeypatch.setattr(keras.applications, "MobileNetV2", lambda **_: small_net())
    monkeypatch.setenv("MIRROR", "mirror")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "mirror").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(official: WeightsFile | None = None, **of_backbone: Any) -> None:
    """Run the stage; `official` is what Keras would download."""
    given = {"name": "MobileNetV2", "weights": "imagenet", "sha256": {}} | of_backbone
    section = ALL.backbone.model_copy(update=given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "official_weights", lambda *_: official)
        backbone.main(ALL.model_copy(update={"backbone": section}))


def test_the_file_that_keras_publishes_is_taken_by_its_hash_or_called_unpinned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "no_top.h5"
    with h5py.File(file, "w") as store:
        legacy_h5_format.save_weights_to_hdf5_group(store, small_net())
    sha256 = digest(file)
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{file.name}"
        run(WeightsFile(file.name, url, digest(file, "md5")))
        run(WeightsFile(file.name, url, sha256))
        assert "not pinned" not in capsys.readouterr().out
        run(WeightsFile(file.name, url, None))
        assert f"no hash for it; sha256 {sha256} is not pinned" in capsys.readouterr().out
        with pytest.raises(PipelineError, match=f"backbone.sha256 .*Keras's own {'0' * 32}; if"):
            run(WeightsFile(file.name, url, "0" * 32))
        server.shutdown()
    assert list(WEIGHTS.parent.iterdir()) == [WEIGHTS]

    # What lies in a mirror, where Keras has no hash, is taken by a pinned digest only.
    file.rename(folder / "mirror" / file.name)
    with pytest.raises(PipelineError, match=f"sha256 is {sha256}, none of .* add its digest there"):
        run(WeightsFile(file.name, url, None))
    run(WeightsFile(file.name, url, None), sha256={"mine": sha256})


def test_a_mirror_may_hold_them_as_keras_saves_them(folder: Path) -> None:
    net, file = small_net(), folder / "mirror/mobilenet_v2_notop.weights.h5"
    net.save_weights(file)
    run(WeightsFile("no_top.h5", "http://127.0.0.1:1/", None), sha256={"mine": digest(file)})
    kept = original("MobileNetV2", 32, WEIGHTS)
    np.testing.assert_array_equal(kept.get_weights()[0], net.get_weights()[0])


def test_weights_of_ones_own_come_by_a_path_seen_from_the_project(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_net().save_weights("mine.weights.h5")
    (copy := folder / ".dvc/tmp/exps/standalone/abc").mkdir(parents=True)
    monkeypatch.chdir(copy)  # as DVC does for an experiment
    run(weights="mine.weights.h5")
    assert (copy / WEIGHTS).exists()
    assert f"sha256 {digest(folder / 'mine.weights.h5')}" in capsys.readouterr().out
    for wrong in ("imagenett", "mirror"):
        with pytest.raises(PipelineError, match=f"'{wrong}': there is no such file; expected imag"):
            run(weights=wrong)
