"""The way of Keras's guide to transfer learning, https://keras.io/guides/transfer_learning/.

The base stays in the graph: each step of each epoch computes it. The head is trained on the frozen
base, then base and head at a low, constant rate. `rivals` runs it.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import numpy.typing as npt

from stages.transfer import backbones, measures
from stages.transfer.inference import batched, predict
from stages.transfer.params import Backbone
from stages.transfer.paths import WEIGHTS

HEAD_RATE = 1e-3
HEAD_EPOCHS = 1  # the guide has 2; fewer are in its favour
# The guide's rate to fine-tune with, and what is tried beside it.
RATES = (1e-5, 1e-4, 3e-4, 1e-3)
# Chosen on dev by `make bench BENCH=--tune`, at 80 px, one run:
#   rate   dev accuracy after 1 epoch
#   1e-5   0.8098
#   1e-4   0.8416
#   3e-4   0.8056
#   1e-3   0.1000
RATE = 1e-4
TUNE_EPOCHS = 1
MAX_EPOCHS = 10
DROPOUT = 0.2  # as in the guide
CHECKS = 4  # measurements of dev in an epoch of fine-tuning
BATCH = 128  # images
DEV_BATCH = 250  # images; decides nothing but the time, which counts after each epoch


class Arrays(NamedTuple):
    """One part of the dataset: uint8 (n, 32, 32, 3) and integers (n,)."""

    x: npt.NDArray
    y: npt.NDArray


class Clock:
    """Adds up the seconds that its `with` blocks take.

    Args:
        seconds: to begin with.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def guide_model(own: Backbone, classes: int) -> tuple[keras.Model, keras.Model]:
    """Build the model of https://keras.io/guides/transfer_learning/ with its base frozen.

    Returns:
        base and model: raw images (n, 32, 32, 3) in [0, 255] -> logits (n, classes). Images are
        flipped at random in training; the base, all of it, is part of what each step computes.
    """
    base = backbones.build(own.name, own.image_size, WEIGHTS)
    base.trainable = False
    images = keras.Input((32, 32, 3), name="images")
    flipped = keras.layers.RandomFlip("horizontal")(images)
    on_images = backbones.on_raw_images(base, own.name, own.image_size)
    maps = on_images(flipped, training=False)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    dropped = keras.layers.Dropout(DROPOUT)(pooled)
    return base, keras.Model(images, keras.layers.Dense(classes, name="logits")(dropped))


def unfreeze(base: keras.Model) -> None:
    """Unfreeze a base, BatchNormalization excepted, layer by layer.

    The guide relies on `base(x, training=False)` to keep it in inference mode. Keras 3.15.1 ignores
    that once the outer model is called with training=True, and the moving averages change.
    """
    base.trainable = True
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def compile_model(model: keras.Model, rate: float) -> None:
    """Compile a model that ends in logits, with Adam at a constant rate."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)


def fine_tuning(
    model: keras.Model, train: Arrays, epochs: int, clock: Clock
) -> Iterator[tuple[float, int]]:
    """Train a compiled model, a part of an epoch at a time; only training is on this clock.

    Yields:
        Epochs so far, in steps of 1 / CHECKS, and images so far.
    """
    rng = np.random.default_rng(1)
    images = 0
    for epoch in range(epochs):
        order = rng.permutation(len(train.x))
        for number, part in enumerate(np.array_split(order, CHECKS), 1):
            with clock:
                model.fit(batched((train.x[part], train.y[part]), BATCH), verbose=0)
            images += len(part)
            yield epoch + number / CHECKS, images


def accuracy(model: keras.Model, part: Arrays) -> float:
    """Return a model's accuracy on a part of the data, in [0, 1]."""
    return measures.accuracy(predict(model, part.x, DEV_BATCH), part.y)


def guide(
    data: dict[str, Arrays],
    own: Backbone,
    classes: int,
    rates: Sequence[float],
    head_epochs: int,
    epochs: int,
    target: float,
    start: Clock,
) -> list[dict[str, Any]]:
    """Train the guide's way: the head on the frozen base, then all of it at a low, constant rate.

    Args:
        data: train, dev and test.
        own: which net, at which size; its weights are those of the `backbone` stage.
        classes: number of classes.
        rates: of fine-tuning; each starts from the same head.
        head_epochs: epochs of the head alone.
        epochs: of fine-tuning, at the most.
        target: accuracy on dev at which it stops, in [0, 1].
        start: seconds since the process began; building the model and measuring its head on dev go
            there too.

    Returns:
        For each rate: rate; seconds to the target or None; checks, with epoch, images, seconds and
        dev_accuracy each; dev_accuracy_after_head; test_accuracy at the end; images_per_second of
        each phase, the first step's tracing included.
    """
    train, dev = data["train"], data["dev"]
    head_clock = Clock()
    with start:
        base, model = guide_model(own, classes)
    with head_clock:
        compile_model(model, HEAD_RATE)
        for seed in range(head_epochs):
            order = np.random.default_rng(seed).permutation(len(train.x))
            model.fit(batched((train.x[order], train.y[order]), BATCH), verbose=0)
    with start:
        after_head = accuracy(model, dev)
    head_rate = head_epochs * len(train.x) / head_clock.seconds
    print(f"guide: head alone, dev {after_head:.4f}, {head_rate:.0f} images/s", flush=True)

    weights = model.get_weights()
    results = []
    for rate in rates:
        clock, measuring, checks = Clock(), Clock(), []
        with clock:
            model.set_weights(weights)
            unfreeze(base)
            compile_model(model, rate)
        for epoch, images in fine_tuning(model, train, epochs, clock):
            # Fine-tuning would measure dev once an epoch; in between it is this benchmark's doing.
            with measuring if epoch.is_integer() else contextlib.nullcontext():
                reached = accuracy(model, dev)
            clocks = (start, head_clock, clock, measuring)
            seconds = sum(each.seconds for each in clocks)
            checks.append(
                {"epoch": epoch, "images": images, "seconds": seconds, "dev_accuracy": reached}
            )
            print(
                f"guide: rate {rate:g}, epoch {epoch:.2f}, {seconds:.0f} s, dev {reached:.4f}",
                flush=True,
            )
            if reached >= target:
                break
        last = checks[-1]
        results.append(
            {
                "rate": rate,
                "seconds": last["seconds"] if last["dev_accuracy"] >= target else None,
                "checks": checks,
                "dev_accuracy_after_head": after_head,
                "test_accuracy": accuracy(model, data["test"]),
                "images_per_second": {
                    "head": head_rate,
                    "fine-tuning": last["images"] / clock.seconds,
                },
            }
        )
    return results
