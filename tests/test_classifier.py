"""The classifier: the join equals its parts, the file equals the model, BatchNorm is seen to."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from stages.transfer import backbones, classifier, cuts, recipe
from stages.transfer.errors import PipelineError
from stages.transfer.training import fit

CUTS = {"MobileNetV2": "block_5_add", "EfficientNetV2B0": "block2b_add", "VGG16": "block3_pool"}
IMAGES = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3)).astype(np.float32)


def parts(name: str) -> tuple[keras.Model, keras.Model, keras.Model, keras.Model]:
    """Return net, prefix on raw images, trainable part with a head that is not zero, the join."""
    keras.utils.set_random_seed(3)
    net = backbones.build(name, 32)
    for layer in net.layers:  # moving averages of these images, not the initial ones
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    backbones.on_raw_images(net, name, 32)(IMAGES, training=True)
    prefix, suffix = cuts.split(net, CUTS[name])
    part = classifier.trainable_part(suffix, 10, 0.2)
    head = part.get_layer("logits")
    head.set_weights([np.random.default_rng(2).normal(size=w.shape) for w in head.get_weights()])
    joined = classifier.join(net, name, 32, head)
    return net, backbones.on_raw_images(prefix, name, 32), part, joined


@pytest.mark.parametrize(
    "name",
    ["MobileNetV2", "VGG16", pytest.param("EfficientNetV2B0", marks=pytest.mark.families)],
)
def test_the_join_equals_its_parts_and_survives_the_file(name: str, tmp_path: Path) -> None:
    _, prefix, part, joined = parts(name)
    logits = part.predict(prefix.predict(IMAGES, verbose=0), verbose=0)
    expected = keras.ops.softmax(logits)
    probabilities = joined.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)
    assert np.ptp(probabilities, axis=0).max() > 1e-3  # it tells the images apart at all

    classifier.save(joined, tmp_path / "cifar10.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["cifar10.h5"]
    code = (
        "import keras, numpy as np; m = keras.models.load_model('cifar10.h5');"
        "images = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3)).astype('float32');"
        "np.save('p', m.predict(images, verbose=0)); assert m.optimizer is not None;"
        "print(m.evaluate(images, np.eye(10)[[0] * 8], verbose=0, return_dict=True))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "'accuracy'" in run.stdout
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), probabilities, rtol=1e-5, atol=1e-7)


def test_the_saved_model_takes_raw_images_and_gives_float32_probabilities() -> None:
    joined = parts("MobileNetV2")[3]
    assert joined.input_shape == (None, 32, 32, 3)
    out = joined.predict(IMAGES.astype(np.uint8), verbose=0)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(out, joined.predict(IMAGES, verbose=0), rtol=1e-5, atol=1e-7)


def test_test_time_flip_averages_an_image_and_its_mirror_image(tmp_path: Path) -> None:
    net, _, part, joined = parts("MobileNetV2")
    both = classifier.join(net, "MobileNetV2", 32, part.get_layer("logits"), test_time_flip=True)
    mirrored = IMAGES[:, :, ::-1]
    expected = (joined.predict(IMAGES, verbose=0) + joined.predict(mirrored, verbose=0)) / 2
    given = both.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-7)
    assert abs(given - joined.predict(IMAGES, verbose=0)).max() > 1e-3
    np.testing.assert_allclose(both.predict(mirrored, verbose=0), given, rtol=1e-4, atol=1e-6)

    classifier.save(both, tmp_path / "both.h5")
    loaded = keras.models.load_model(tmp_path / "both.h5")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), given, rtol=1e-5, atol=1e-7)
    assert loaded.evaluate(IMAGES, np.eye(10)[[0] * 8], verbose=0, return_dict=True)["accuracy"] < 1


def test_training_the_part_trains_the_join_and_leaves_the_prefix() -> None:
    net, prefix, part, joined = parts("MobileNetV2")
    before = {w.path: w.numpy() for w in net.weights}
    features = prefix.predict(IMAGES, verbose=0)
    part.compile(recipe.optimizer(1e-2, 3), recipe.loss(), metrics=["accuracy"])
    y = np.eye(10)[np.arange(8)]
    fit(part, features, y, dev=(features, y), epochs=3, batch_size=4, key="fine_tune")
    expected = keras.ops.softmax(part.predict(features, verbose=0))
    np.testing.assert_allclose(joined.predict(IMAGES, verbose=0), expected, rtol=1e-3, atol=1e-5)
    frozen = {id(w) for w in cuts.split(net, CUTS["MobileNetV2"])[0].weights}
    for weight in net.weights:
        changed = not (weight.numpy() == before[weight.path]).all()
        assert not (changed and id(weight) in frozen)
    assert any(not (w.numpy() == before[w.path]).all() for w in net.weights)


def test_a_head_survives_its_file_and_another_nets_head_is_refused(tmp_path: Path) -> None:
    head = recipe.head(10)
    head.build((None, 7))
    assert (head.get_weights()[0] == 0).all()
    kernel = np.random.default_rng(1).normal(size=(7, 10)).astype(np.float32)
    head.set_weights([kernel, np.arange(10)])
    classifier.save_head(head, 0.5, tmp_path / "head.npz")
    other = recipe.head(10)
    other.build((None, 7))
    classifier.load_head(tmp_path / "head.npz", other)
    assert (other.get_weights()[0] == kernel).all()
    assert other.get_weights()[1].tolist() == list(range(10))
    wider = recipe.head(10)
    wider.build((None, 8))
    with pytest.raises(PipelineError, match=r"shape \(7, 10\), expected \(8, 10\)"):
        classifier.load_head(tmp_path / "head.npz", wider)
