"""A network trained from scratch on CIFAR-10: `python -m bench.scratch MINUTES SEED`.

After airbench94 (Jordan 2024, https://arxiv.org/abs/2404.00498): a fixed whitening convolution,
Nesterov SGD, lookahead, alternating flips, test-time augmentation. Its triangular schedule is over
minutes instead of steps; the dev images are held out. Reads the images of the stage `preprocess`.
"""

import sys
import time
from functools import partial

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view

from stages.data.dataset import PARTS, DataSet
from stages.runtime import predict, set_up
from stages.training import cpu

# Of the paper; the rate and the decay are for sums over a batch.
BATCH_SIZE, MOMENTUM, BIAS_FACTOR, SMOOTHING = 1024, 0.85, 64.0, 0.2
RATE = 11.5 / (1024 * (1 + 1 / (1 - MOMENTUM)))
DECAY = 0.0153 * BATCH_SIZE / (1024 * (1 + 1 / (1 - MOMENTUM))) / RATE
SCHEDULE = (0, 0.23, 1), (0.2, 1, 0.07)  # fractions of the time, factors of the rate
WHITENING_BIAS_EPOCHS, SHIFT, EVERY = 3, 2, 5  # epochs, pixels, steps between lookaheads
WIDTHS = (64, 256, 256)
UNIFORM = partial(keras.initializers.VarianceScaling, 1 / 3, "fan_in", "uniform")  # PyTorch's
MEAN, DEVIATION = (125.31, 122.95, 113.87), (62.99, 62.09, 66.7)  # of CIFAR-10's training images


def network(x: npt.NDArray, classes: int) -> keras.Model:
    """Return the network on images in [0, 255], whitening by those given: (n, 32, 32, 3)."""
    inputs = keras.Input(x.shape[1:])
    normalized = keras.layers.Normalization(mean=MEAN, variance=np.square(DEVIATION))
    whitening = keras.layers.Conv2D(24, 2, name="whitening")
    h = keras.layers.Activation("gelu")(whitening(normalized(inputs)))
    for width in WIDTHS:
        for layer in (keras.layers.MaxPooling2D(2), keras.layers.Identity()):
            options = {"padding": "same", "use_bias": False, "kernel_initializer": identity}
            h = layer(keras.layers.Conv2D(width, 3, **options)(h))
            h = cpu.FusedBatchNormalization(momentum=0.6, epsilon=1e-12, scale=False)(h)
            h = keras.layers.Activation("gelu")(h)
    h = keras.layers.Flatten()(keras.layers.MaxPooling2D(3)(h))
    logits = keras.layers.Dense(classes, use_bias=False, kernel_initializer=UNIFORM())(h)
    windows = sliding_window_view(np.array(normalized(x)), (2, 2), (1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / np.sqrt(values + 5e-4)).reshape(2, 2, 3, 12)
    whitening.set_weights([np.concatenate([filters, -filters], axis=-1), np.zeros(24)])
    whitening.kernel.trainable = False
    return keras.Model(inputs, logits / 9)


def identity(shape: tuple[int, ...], dtype: str) -> npt.NDArray:
    """Return a kernel whose first filters pass on a channel each."""
    kernel = np.array(UNIFORM()(shape, dtype))
    kernel[..., : shape[2]] = np.pad(np.eye(shape[2])[None, None], [(1, 1), (1, 1), (0, 0), (0, 0)])
    return kernel


def train(net: keras.Model, x: npt.NDArray, y: npt.NDArray, seconds: float, seed: int) -> float:
    """Train for `seconds`; return the number of epochs."""
    start, size = time.perf_counter(), min(BATCH_SIZE, len(x))
    optimizer = keras.optimizers.SGD(RATE, MOMENTUM, nesterov=True)
    optimizer.build(net.trainable_variables)
    loss = keras.losses.CategoricalCrossentropy(True, SMOOTHING, reduction="sum")

    @tf.function  # type: ignore[untyped-decorator]
    def step(images: tf.Tensor, labels: tf.Tensor, whitening: bool) -> None:
        variables = [v for v in net.trainable_variables if whitening or "whitening" not in v.path]
        with tf.GradientTape() as tape:
            value = loss(labels, net(images, training=True))
        gradients = tape.gradient(value, [variable.value for variable in variables])
        factors = [BIAS_FACTOR if v.path.endswith("beta") else 1.0 for v in variables]
        decayed = [f * g + DECAY * v for f, g, v in zip(factors, gradients, variables, strict=True)]
        optimizer.apply(decayed, variables)

    rng, labels = np.random.default_rng(seed), keras.utils.to_categorical(y)
    padded = np.pad(x, [(0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)], mode="reflect")
    mirrored, number, per_epoch = rng.random(len(x)) < 0.5, 0, len(x) // size
    slow = net.get_weights()
    while (passed := time.perf_counter() - start) < seconds:
        progress = passed / seconds
        epoch, batch = divmod(number, per_epoch)
        if not batch:
            order, mirrored = rng.permutation(len(x)), ~mirrored  # each image every other epoch
        rows = order[batch * size : (batch + 1) * size]
        windows = sliding_window_view(padded[rows], x.shape[1:3], (1, 2))
        places = rng.integers(0, 2 * SHIFT + 1, (2, size))
        images = windows[range(size), *places].transpose(0, 2, 3, 1)
        images[mirrored[rows]] = images[mirrored[rows], :, ::-1]
        optimizer.learning_rate = RATE * np.interp(progress, *SCHEDULE)
        step(images, labels[rows], epoch < WHITENING_BIAS_EPOCHS)
        number += 1
        if number % EVERY == 0:
            keep = 0.95**EVERY * progress**3
            pairs = zip(slow, net.get_weights(), strict=True)
            slow = [keep * old + (1 - keep) * new for old, new in pairs]
            net.set_weights(slow)
    net.set_weights(slow)
    return number / per_epoch


def accuracy(net: keras.Model, x: npt.NDArray, y: npt.NDArray) -> float:
    """Return the accuracy, averaged over shifts and mirror images as in the paper."""
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    logits = np.zeros((len(x), net.output_shape[1]))
    for view, weight in ((x, 2), (padded[:, :-2, :-2], 1), (padded[:, 2:, 2:], 1)):
        logits += weight * (predict(net, view, 250) + predict(net, view[:, :, ::-1], 250))
    return float(np.mean(logits.argmax(axis=1) == y))


def main(minutes: float, seed: int) -> None:
    """Train on the images of the stage `preprocess`; print accuracy on dev and test."""
    start = time.perf_counter()
    set_up(seed, at_once=1)
    cpu.set_up()
    data = DataSet()
    x, dev, test = (data.images(part)[:] for part in PARTS)
    net = network(x[:5000], len(data.class_names))
    epochs = train(net, x, data.labels("train"), 60 * minutes + start - time.perf_counter(), seed)
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes, {epochs:.1f} epochs", flush=True)
    for part, images in (("dev", dev), ("test", test)):
        print(f"{part} {accuracy(net, images, data.labels(part)):.4f}")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
