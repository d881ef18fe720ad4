"""The workflows of https://keras.io/guides/transfer_learning/ that `make bench` times.

All run under favorable conditions: no XLA, no reproducible operations, no tf.data autotuning.
`python -m bench.guide RESULT fine_tuning 0.87` leaves what it found as JSON.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages import params
from stages.data.dataset import PARTS, DataSet
from stages.data.folders import opened
from stages.nets.applications import APPLICATIONS
from stages.nets.graph import pooled
from stages.nets.preprocessing import on_raw_images
from stages.nets.pretrained import build
from stages.paths import PHOTOS, WEIGHTS
from stages.runtime import predict

LOSS = "sparse_categorical_crossentropy"
# The guide has 1e-5. Accuracy on dev after one epoch at 80 px, one run each, of older code:
#   1e-5 0.8098   1e-4 0.8416   3e-4 0.8056   1e-3 0.1000
RATE = 1e-4
EPOCHS = 10  # of fine-tuning, at the most; dev is measured each quarter
BATCH_SIZE = 128  # images
INFERENCE = 50  # images at a time; divides 2,000 and 5,000: a smaller last batch is traced anew
PHOTO_BATCH_SIZE = 32  # the default of `image_dataset_from_directory`
PHOTO_HEAD_EPOCHS = 3


def fine_tuning(target: float) -> dict[str, float]:
    """Train a head on the frozen net for an epoch, then all of it, until dev reaches `target`.

    Returns:
        Accuracy on dev, epochs of fine-tuning, seconds in which dev was measured.
    """
    data = DataSet()
    x, x_dev = (data.images(part)[:] for part in ("train", "dev"))
    y, y_dev = data.labels("train"), data.labels("dev")
    net, extractor, head = network(data.image_shape, len(data.class_names))
    flip, dropout = keras.layers.RandomFlip("horizontal"), keras.layers.Dropout(0.2)
    model = keras.Sequential([flip, extractor, dropout, head])
    model.compile("adam", LOSS)
    for batch in batches(len(x), epochs=1):
        model.train_on_batch(x[batch], y[batch])

    unfreeze(net)
    model.compile(keras.optimizers.Adam(RATE), LOSS)
    steps = len(x) // BATCH_SIZE  # in an epoch
    measuring = dev = 0.0
    for step, batch in enumerate(batches(len(x), EPOCHS), 1):
        model.train_on_batch(x[batch], y[batch])
        if step % max(1, steps // 4) == 0:
            start = time.perf_counter()
            dev = accuracy(extractor, head, x_dev, y_dev)
            measuring += time.perf_counter() - start
            print(f"guide: {step / steps:.2f} epochs of fine-tuning, dev {dev:.4f}", flush=True)
            if dev >= target:
                break
    return {"dev": dev, "epochs": step / steps, "measuring": measuring}


def network(
    image_shape: tuple[int, ...], classes: int
) -> tuple[keras.Model, keras.Model, keras.Layer]:
    """Return the frozen net, the net on raw images with pooling after it, and a new head."""
    own = params.load().backbone
    net = build(own.name, own.image_size, WEIGHTS)
    net.trainable = False
    extractor = pooled(on_raw_images(net, APPLICATIONS[own.name].preprocessing, image_shape))
    return net, extractor, keras.layers.Dense(classes, activation="softmax")


def unfreeze(net: keras.Model) -> None:
    """Unfreeze all but BatchNormalization: Keras 3.15.1 ignores the guide's `training=False`."""
    net.trainable = True
    for layer in net.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)


def batches(count: int, epochs: int) -> Iterator[npt.NDArray]:
    """Yield which images are in each batch, whole batches only, shuffled anew in each epoch."""
    rng = np.random.default_rng(1)
    for _ in range(epochs):
        yield from rng.permutation(count)[: count - count % BATCH_SIZE].reshape(-1, BATCH_SIZE)


def feature_extraction(images: int) -> dict[str, float]:
    """Run the net at its native size once over some training images; train a head on the features.

    Returns:
        The head's accuracy on dev, images, images a second through the net, their side in pixels.
    """
    data, own = DataSet(), APPLICATIONS[params.load().backbone.name]
    x, y = data.images("train")[:images], data.labels("train")[:images]
    net = build(params.load().backbone.name, own.native_size, WEIGHTS)
    extractor = pooled(on_raw_images(net, own.preprocessing, data.image_shape))
    extractor.predict_on_batch(x[:INFERENCE])  # not timed: traces the net
    start = time.perf_counter()
    features = predict(extractor, x, INFERENCE)
    rate = len(features) / (time.perf_counter() - start)

    head = keras.Sequential([keras.layers.Dense(len(data.class_names), activation="softmax")])
    head.compile("adam", LOSS)
    head.fit(features, y, epochs=20, verbose=0)
    dev = accuracy(extractor, head, data.images("dev")[:], data.labels("dev"))
    return {"dev": dev, "images": len(features), "rate": rate, "px": own.native_size}


def photos(rate: float, epochs: int) -> list[tuple[float, float, float]]:
    """Train a head on the frozen net, then all of it for some epochs at a rate, on own images.

    They are read by Keras's own function, kept in memory after the first epoch, and augmented as in
    the guide.

    Returns:
        After each epoch, the head's first: seconds, accuracy on dev, accuracy on test. The seconds
        are those of reading, building and training; starting Python and measuring are not counted.
    """
    own, data = params.load(), DataSet()
    side, flip = own.backbone.image_size, own.features.flip
    augmentation = [keras.layers.RandomFlip("horizontal")] * flip
    augmentation += [keras.layers.RandomRotation(0.1)]

    def augmented(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for layer in augmentation:
            x = layer(x, training=True)
        return x, y

    found: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as top:
        write_folders(PHOTOS / own.data.name, Path(top))
        held_out = [
            tuple(map(np.array, zip(*folder(Path(top, part), side, data.aspect), strict=True)))
            for part in ("dev", "test")
        ]
        start = time.perf_counter()
        train = folder(Path(top, "train"), side, data.aspect).cache()
        train = train.shuffle(len(train)).batch(PHOTO_BATCH_SIZE).map(augmented).prefetch(2)
        net, extractor, head = network((side, side, 3), len(data.class_names))
        model = keras.Sequential([extractor, keras.layers.Dropout(0.2), head])
        model.compile("adam", LOSS)
        for epoch in range(PHOTO_HEAD_EPOCHS + epochs):
            if epoch == PHOTO_HEAD_EPOCHS:
                unfreeze(net)
                model.compile(keras.optimizers.Adam(rate), LOSS)
            model.fit(train, verbose=0, shuffle=False)
            seconds = time.perf_counter() - start
            both = flip and own.fine_tune.test_time_flip
            dev, test = (accuracy(extractor, head, x, y, both) for x, y in held_out)
            found += [(seconds, dev, test)]
            measured = f"{seconds:.1f} s, dev {dev:.4f}, test {test:.4f}"
            print(f"guide: rate {rate:g}, epoch {epoch + 1}: {measured}", flush=True)
            start = time.perf_counter() - seconds  # without what measuring took
    return found


def write_folders(place: Path, top: Path) -> None:
    """Copy the files of each part of the data set from a folder or archive to <part>/<label>."""
    data = DataSet()
    with opened(place) as (_, read):
        for part in PARTS:
            named = zip(data.files(part), data.labels(part), strict=True)
            for number, (name, label) in enumerate(named):
                # Numbers, because Keras takes the classes in the order of their folders.
                path = Path(top, part, f"{label:05}", f"{number}{Path(name).suffix}")
                path.parent.mkdir(parents=True, exist_ok=True)
                with read(str(name)) as file:
                    path.write_bytes(file.read())


def folder(top: Path, side: int, aspect: str) -> tf.data.Dataset:
    """Return the images and labels of class folders, one by one, as Keras reads them.

    It ends the process if there are files that Keras does not read, such as HEIC.
    """
    data = keras.utils.image_dataset_from_directory(
        top,
        image_size=(side, side),
        batch_size=None,
        shuffle=False,
        crop_to_aspect_ratio=aspect == "crop",
        pad_to_aspect_ratio=aspect == "pad",
    )
    if left := sum(path.is_file() for path in top.rglob("*")) - len(data.file_paths):
        sys.exit(f"error: {left} images are in formats that Keras's own function does not read")
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def accuracy(
    extractor: keras.Model, head: keras.Layer, x: npt.NDArray, y: npt.NDArray, flip: bool = True
) -> float:
    """Return the accuracy on features, if `flip` averaged over image and mirror image."""
    views = (x, x[:, :, ::-1]) if flip else (x,)
    features = sum(predict(extractor, images, INFERENCE) for images in views) / len(views)
    return float(np.mean(np.argmax(head(features), axis=1) == y))


WORKFLOWS = {
    "fine_tuning": fine_tuning,
    "feature_extraction": feature_extraction,
    "photos": photos,
}

if __name__ == "__main__":
    result, workflow, *values = sys.argv[1:]
    keras.utils.set_random_seed(params.load().fine_tune.seed)
    found = WORKFLOWS[workflow](*map(json.loads, values))  # type: ignore[operator]
    Path(result).write_text(json.dumps(found))
