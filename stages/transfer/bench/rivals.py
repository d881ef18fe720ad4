"""Two other ways to a CIFAR-10 classifier, which `make bench` sets beside this pipeline.

Each runs in a project's folder as a process of its own, so that its memory is measured alone, and
prints its result as one line of JSON, the last:

    python -m stages.transfer.command rival guide
    python -m stages.transfer.command rival usual --name ResNet50

Both get the benefit of the doubt. XLA, which Keras chooses by itself and which is several times
slower than oneDNN on these nets on a CPU, is off; operations need not be deterministic, as the
pipeline's have to be; nor do they wait for what tf.data tunes (see `inference`). The guide's clock
stands still while dev is measured within an epoch.
"""

import json
import time
from typing import Any

import keras
import numpy as np

from stages.transfer import backbones
from stages.transfer.applications import APPLICATIONS
from stages.transfer.bench.arguments import Parser, count, share
from stages.transfer.bench.guide import (
    BATCH,
    HEAD_EPOCHS,
    HEAD_RATE,
    MAX_EPOCHS,
    RATE,
    RATES,
    TUNE_EPOCHS,
    Arrays,
    Clock,
    compile_model,
    guide,
)
from stages.transfer.errors import PipelineError
from stages.transfer.interruption import end_with
from stages.transfer.params import load
from stages.transfer.paths import DATASET
from stages.transfer.signals import PARENT


def usual(
    train: Arrays, name: str, image_size: int, classes: int, batch_size: int
) -> dict[str, Any]:
    """Time an epoch of the usual solution: a large net, frozen, in the graph, a small head on it.

    Its weights are random: the time does not depend on them.

    Args:
        train: the images that are timed, after one step on the first of them that is not; of an
            incomplete last batch nothing is used.
        name: the application, a key of `APPLICATIONS`.
        image_size: side in pixels that the images are enlarged to, inside the model.
        classes: number of classes.
        batch_size: images in a step.

    Returns:
        batch_size of the steps, images timed, seconds they took, images_per_second.
    """
    net = backbones.build(name, image_size)
    net.trainable = False
    front = backbones.on_raw_images(net, name, image_size)
    pooled = keras.layers.GlobalAveragePooling2D()(front.output)
    hidden = keras.layers.Dense(256, activation="relu")(pooled)
    dropped = keras.layers.Dropout(0.3)(hidden)
    model = keras.Model(front.input, keras.layers.Dense(classes)(dropped))
    compile_model(model, HEAD_RATE)

    size = min(batch_size, len(train.x))
    starts = range(0, len(train.x) - size + 1, size)
    model.train_on_batch(train.x[:size], train.y[:size])  # traces the graph
    clock = Clock()
    for first in starts:
        with clock:
            model.train_on_batch(train.x[first : first + size], train.y[first : first + size])
    images = size * len(starts)
    return {
        "batch_size": size,
        "images": images,
        "seconds": clock.seconds,
        "images_per_second": images / clock.seconds,
    }


def main(arguments: list[str]) -> None:
    """Run one way in the current folder's project; print its result as a line of JSON."""
    parser = Parser(prog="python -m stages.transfer.command rival")
    parser.add_argument("--started", type=float, help="when this process was, as time.time() says")
    ways = parser.add_subparsers(dest="way", required=True)
    of_guide = ways.add_parser("guide")
    of_guide.add_argument("--tune", action="store_true", help=f"each of the rates {RATES}")
    of_guide.add_argument("--rate", type=share, default=RATE)
    of_guide.add_argument("--head-epochs", type=count, default=HEAD_EPOCHS)
    of_guide.add_argument("--epochs", type=count, help=f"{MAX_EPOCHS}; --tune {TUNE_EPOCHS}")
    of_guide.add_argument("--target", type=share, default=1.0)
    of_usual = ways.add_parser("usual")
    of_usual.add_argument("--name", required=True, choices=APPLICATIONS)
    of_usual.add_argument("--image-size", type=count, default=224)
    of_usual.add_argument("--batch-size", type=count, default=BATCH)
    of_usual.add_argument("--images", type=count, default=4 * BATCH)
    chosen = parser.parse_args(arguments)
    end_with(PARENT)

    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.utils.set_random_seed(1)
    if not DATASET.exists():
        raise PipelineError(f"{DATASET} is missing; run `dvc repro`")
    with np.load(DATASET) as file:
        data = {p: Arrays(file[f"x_{p}"], file[f"y_{p}"]) for p in ("train", "dev", "test")}
        classes = len(file["class_names"])
    result: Any
    if chosen.way == "guide":
        rates = RATES if chosen.tune else (chosen.rate,)
        target = 2.0 if chosen.tune else chosen.target  # one that is tuned never stops early
        epochs = chosen.epochs or (TUNE_EPOCHS if chosen.tune else MAX_EPOCHS)
        own = load().backbone
        clock = Clock(time.time() - chosen.started if chosen.started else 0.0)
        result = guide(data, own, classes, rates, chosen.head_epochs, epochs, target, clock)
    else:
        part = Arrays(*(array[: chosen.images] for array in data["train"]))
        result = usual(part, chosen.name, chosen.image_size, classes, chosen.batch_size)
    print(json.dumps(result), flush=True)
