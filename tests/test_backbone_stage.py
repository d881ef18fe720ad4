"""The backbone stage: which weights files it takes, in which formats, and what it says of them."""

import functools
import http.server
import re
import threading
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import yaml
from keras.src.legacy.saving import legacy_h5_format

from stages import backbone
from stages.transfer import backbones, params
from stages.transfer.errors import PipelineError
from stages.transfer.files import digest
from stages.transfer.paths import WEIGHTS
from tests.conftest import PROJECT


def settings(tmp_path: Path, **changes: Any) -> params.Params:
    content = yaml.safe_load((PROJECT / "params.yaml").read_text())
    content["backbone"] |= {"image_size": 32, "sha256": []} | changes
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return params.load(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder to be in, and a mirror in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIRROR", "mirror")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "mirror").mkdir()
    return tmp_path


def save_as_keras_publishes(net: keras.Model, path: Path) -> None:
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, net)


@pytest.mark.parametrize("published", [True, False])
def test_both_formats_are_taken_by_digest(folder: Path, published: bool) -> None:
    keras.utils.set_random_seed(7)
    net = backbones.build("MobileNetV2", 32)
    if published:
        path = folder / "mirror" / backbones.official_weights("MobileNetV2", 32).name
        save_as_keras_publishes(net, path)
    else:
        path = folder / "mirror/mobilenet_v2_notop.weights.h5"
        net.save_weights(path)
    backbone.main(settings(folder, sha256=[digest(path)]))
    kept = backbones.build("MobileNetV2", 32, folder / WEIGHTS)
    for a, b in zip(net.get_weights(), kept.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MobileNetV2", "expected one of backbone.sha256 in params.yaml"),
        ("VGG16", "md5 is not Keras's own 6d6bbae143d832006294945121d1f1fc"),
    ],
)
def test_an_unknown_digest_is_refused(folder: Path, name: str, said: str) -> None:
    (folder / "mirror" / backbones.official_weights(name, 32).name).write_bytes(b"some bytes")
    with pytest.raises(PipelineError, match=said):
        backbone.main(settings(folder, name=name, cut="any"))
    assert not (folder / WEIGHTS).exists()


def test_from_keras_without_a_hash_they_are_taken_and_called_unpinned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "served").mkdir()
    path = folder / "served/weights_no_top.h5"
    save_as_keras_publishes(backbones.build("MobileNetV2", 32), path)
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{httpd.server_port}/{path.name}"
        official = backbones.WeightsFile(path.name, url, None)
        monkeypatch.setattr(backbones, "official_weights", lambda *_: official)
        backbone.main(settings(folder))
        said = capsys.readouterr().out
        assert f"Keras has no hash for it; sha256 {digest(path)} is not pinned" in said

        # Where Keras has a hash, other bytes from its own address are refused.
        monkeypatch.setattr(
            backbones, "official_weights", lambda *_: official._replace(hash="0" * 32)
        )
        with pytest.raises(PipelineError, match="md5 is not Keras's own"):
            backbone.main(settings(folder))
        monkeypatch.setattr(
            backbones, "official_weights", lambda *_: official._replace(hash=digest(path, "md5"))
        )
        backbone.main(settings(folder))
        assert "not pinned" not in capsys.readouterr().out.splitlines()[-1]
        httpd.shutdown()


@pytest.mark.parametrize("name", ["MobileNet", "VGG16", "EfficientNetB0"])
def test_weights_of_ones_own_come_by_path(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constructor = getattr(keras.applications, name)
    net = constructor(include_top=False, weights=None, input_shape=(32, 32, 3))
    net.save_weights(folder / "mine.weights.h5")
    backbone.main(settings(folder, name=name, weights="mine.weights.h5"))
    backbones.build(name, 32, folder / WEIGHTS)  # as later stages read it
    kept = backbones.original(name, 32, folder / WEIGHTS)
    for a, b in zip(net.get_weights(), kept.get_weights(), strict=True):
        assert (a == b).all()
    assert digest(folder / "mine.weights.h5") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("none.h5", "backbone.weights = 'none.h5': there is no such file; expected imagenet"),
        ("imagenett", "backbone.weights = 'imagenett': there is no such file; expected imagenet"),
        ("other.weights.h5", "expected the weights of MobileNetV2 without its top"),
        ("text.h5", "text.h5: expected HDF5, a weights file as Keras saves them"),
        ("empty.weights.h5", "empty.weights.h5: expected HDF5"),
        ("half.weights.h5", "half.weights.h5: expected HDF5"),
        ("other.keras", "other.keras: expected a name that ends in .weights.h5 or .h5"),
        ("mirror", "backbone.weights = 'mirror': is no file; expected imagenet"),
    ],
)
def test_a_path_to_something_else_is_refused(folder: Path, weights: str, said: str) -> None:
    (folder / "text.h5").write_text("not HDF5")
    backbones.build("MobileNet", 32).save_weights(folder / "other.weights.h5")
    whole = (folder / "other.weights.h5").read_bytes()
    (folder / "other.keras").write_bytes(whole)
    (folder / "half.weights.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.weights.h5").touch()
    with pytest.raises(PipelineError, match=re.escape(said)):
        backbone.main(settings(folder, weights=weights))
    assert not (folder / WEIGHTS).exists()


def test_a_relative_path_is_the_projects_in_a_temporary_copy_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy := folder / ".dvc/tmp/exps/standalone/abc").mkdir(parents=True)
    backbones.build("MobileNetV2", 32).save_weights(folder / "mine.weights.h5")
    monkeypatch.chdir(copy)
    backbone.main(settings(folder, weights="mine.weights.h5"))
    assert (copy / WEIGHTS).exists()
