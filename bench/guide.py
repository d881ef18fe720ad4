"""The two workflows of https://keras.io/guides/transfer_learning/, timed by `make bench`.

Both run under favorable conditions: no XLA, no reproducible operations, no tf.data autotuning.
`python -m bench.guide RESULT fine_tuning 0.87` leaves what it found as JSON.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from stages import params
from stages.files import read_arrays
from stages.nets.applications import APPLICATIONS
from stages.nets.graph import pooled
from stages.nets.preprocessing import on_raw_images
from stages.nets.pretrained import build
from stages.paths import DATASET, WEIGHTS
from stages.runtime import predict

LOSS = "sparse_categorical_crossentropy"
# The guide has 1e-5. Accuracy on dev after one epoch at 80 px, one run each, of older code:
#   1e-5 0.8098   1e-4 0.8416   3e-4 0.8056   1e-3 0.1000
RATE = 1e-4
EPOCHS = 10  # of fine-tuning, at the most; dev is measured each quarter
BATCH_SIZE = 128  # images
INFERENCE = 50  # images at a time; must divide both counts, or TensorFlow retraces


def fine_tuning(target: float) -> dict[str, float]:
    """Train a head on the frozen net for an epoch, then all of it, until dev reaches `target`.

    Returns:
        Accuracy on dev, epochs of fine-tuning, seconds in which dev was measured.
    """
    x, y, x_dev, y_dev = read_arrays(DATASET, "x_train", "y_train", "x_dev", "y_dev")
    own = params.load().backbone
    net = build(own.name, own.image_size, WEIGHTS)
    net.trainable = False
    extractor = pooled(on_raw_images(net, APPLICATIONS[own.name].preprocessing, x.shape[1:]))
    head = keras.layers.Dense(int(y.max()) + 1, activation="softmax")
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
    x, y, x_dev, y_dev = read_arrays(DATASET, "x_train", "y_train", "x_dev", "y_dev")
    own = APPLICATIONS[params.load().backbone.name]
    net = build(own.name, own.native_size, WEIGHTS)
    extractor = pooled(on_raw_images(net, own.preprocessing, x.shape[1:]))
    extractor.predict_on_batch(x[:INFERENCE])  # not timed: traces the net
    start = time.perf_counter()
    features = predict(extractor, x[:images], INFERENCE)
    rate = len(features) / (time.perf_counter() - start)

    head = keras.Sequential([keras.layers.Dense(int(y.max()) + 1, activation="softmax")])
    head.compile("adam", LOSS)
    head.fit(features, y[:images], epochs=20, verbose=0)
    dev = accuracy(extractor, head, x_dev, y_dev)
    return {"dev": dev, "images": len(features), "rate": rate, "px": own.native_size}


def accuracy(extractor: keras.Model, head: keras.Layer, x: npt.NDArray, y: npt.NDArray) -> float:
    """Return the accuracy on features averaged over image and mirror image, as in cifar10.h5."""
    of_both = (predict(extractor, images, INFERENCE) for images in (x, x[:, :, ::-1]))
    return float(np.mean(np.argmax(head(sum(of_both) / 2), axis=1) == y))


if __name__ == "__main__":
    result, workflow, value = sys.argv[1:]
    keras.utils.set_random_seed(1)
    tuning = workflow == "fine_tuning"
    found = fine_tuning(float(value)) if tuning else feature_extraction(int(value))
    Path(result).write_text(json.dumps(found))
