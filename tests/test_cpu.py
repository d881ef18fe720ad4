"""What makes a CPU fast: each layer equals Keras's, and the same net is trained without it."""

import json
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from stages import runtime
from stages.training import cpu, layers
from stages.training.head import new_head, with_head
from tests.conftest import PROJECT

X = np.random.default_rng(1).normal(3.0, 2.0, (16, 5, 5, 4)).astype(np.float32)


def trained(
    gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[bool], list[np.ndarray]]:
    """Train a small net for some steps; return which layers are Keras's, and its weights."""
    monkeypatch.setattr(cpu, "gpus", lambda: gpus)
    keras.utils.set_random_seed(1)
    net = keras.Sequential([keras.Input((5, 5, 4))])
    net.add(keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False))
    net.add(keras.layers.BatchNormalization())
    net.add(keras.layers.ReLU(6.0))
    net.add(keras.layers.Conv2D(6, 1, use_bias=False))
    net.add(keras.layers.GlobalAveragePooling2D())
    twin = layers.for_training(net, "adapting", 0.9)
    model = with_head(twin, new_head(4))
    model.compile("adam", "mse")
    model.fit(X, np.tile(np.eye(4), (4, 1)), batch_size=8, epochs=20, shuffle=False, verbose=0)
    kinds = [type(layer).__module__ for layer in twin.layers]
    return [kind.startswith("keras") for kind in kinds], model.get_weights()


def test_with_a_gpu_keras_own_layers_train_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    (kept, of_gpu), (of_keras, of_cpu) = (trained(gpus, monkeypatch) for gpus in (["GPU:0"], []))
    assert kept == [True] * 5
    assert of_keras == [True, False, False, False, True]  # depthwise convolution, pooling
    for theirs, ours in zip(of_gpu, of_cpu, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def one_step(layer: Any, lowest: float, **arguments: Any) -> list[Any]:
    """Return the output of a layer with set weights, and the gradients of its input and them."""
    layer.build(X.shape)
    layer.set_weights(
        [np.linspace(lowest, 2, w.size).reshape(w.shape) for w in layer.get_weights()]
    )
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **arguments)
        loss = tf.reduce_sum(tf.sin(y))
    return [y, *tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_the_fused_layer_equals_keras_forward_backward_and_in_its_averages(
    scale: bool, center: bool
) -> None:
    def found(kind: type[keras.layers.BatchNormalization]) -> list[Any]:
        layer = kind(scale=scale, center=center, momentum=0.7)
        step = one_step(layer, 0.5, training=True)
        return [*step, layer(X, training=False), *layer.get_weights()]

    ours, theirs = found(cpu.FusedBatchNormalization), found(keras.layers.BatchNormalization)
    assert len(ours) == len(theirs) == 3 + 2 * (scale + center) + 2
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "relu", "padding": "same"},
        {"use_bias": True},
        {"strides": 2},
        {"groups": 2},
        {"kernel_size": 3},
        {"kernel_size": (1, 3), "padding": "same"},
    ],
)
def test_a_convolution_equals_keras_forward_and_backward(options: dict[str, Any]) -> None:
    equal("Conv2D", {"filters": 6, "kernel_size": 1, "use_bias": False} | options)


@pytest.mark.parametrize("options", [{}, {"negative_slope": 0.1}, {"threshold": 1.0}])
@pytest.mark.parametrize("highest", [None, 5.0, 6.0])
def test_a_relu_equals_keras_forward_and_backward(
    highest: float | None, options: dict[str, Any]
) -> None:
    equal("ReLU", {"max_value": highest} | options, training=True)


def equal(name: str, options: dict[str, Any], **training: bool) -> None:
    """Compare one of Keras's layers with the one that is trained in its place."""
    expected = one_step(getattr(keras.layers, name)(**options), -1)
    found = one_step(getattr(cpu, name)(**options), -1, **training)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_kernels_are_rounded_to_bfloat16_and_nothing_else() -> None:
    """It has 8 binary digits: the neighbors of 1 + 3/512 are 1 and 1 + 1/128."""
    net = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(1, 1)])
    net.add(keras.layers.BatchNormalization())
    before = [np.full(w.shape, 1 + 3 / 512, np.float32) for w in net.weights]
    net.set_weights(before)
    cpu.round_kernels(net)
    kernel, *others = net.get_weights()
    assert kernel.tolist() == [[[[1 + 1 / 128], [1 + 1 / 128]]]]
    for now, then in zip(others, before[1:], strict=True):
        np.testing.assert_array_equal(now, then)


THREADS = """
from unittest import mock
from tensorflow.config.threading import get_inter_op_parallelism_threads as between
from tensorflow.config.threading import get_intra_op_parallelism_threads as within
from stages import runtime
for count, at_once in ((1, 2), (2, 1), (2, 2), (3, 2), (8, 2)):
    with mock.patch("loky.cpu_count", lambda: count):
        runtime.set_up(7, at_once)
    print([within(), between()])
"""


def test_there_are_as_many_threads_as_processors() -> None:
    arguments = [sys.executable, "-c", THREADS]
    said = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("[")]
    assert lines == [[1, 1], [2, 2], [1, 2], [3, 3], [8, 8]]


CONVOLUTION = """
import os
os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
from unittest import mock
import keras
from stages import runtime
from stages.training import cpu
runtime.set_up(1)
model = keras.Sequential([keras.Input((8, 8, 16)), keras.layers.Conv2D(16, 1)])
def show():
    model.make_predict_function(force=True)  # traced anew
    print(model.predict_on_batch(keras.random.normal((4, 8, 8, 16), seed=1)).tolist())
show()
with mock.patch.object(cpu, "description", lambda: {"instructions": "avx2 avx512f"}):
    cpu.set_up()
show()
with mock.patch.dict(os.environ, {"ONEDNN_MAX_CPU_ISA": "AVX2"}):
    cpu.set_up()
show()
cpu.set_up()
show()
"""


def test_bfloat16_is_used_where_the_processor_has_it_and_changes_little() -> None:
    arguments = [sys.executable, "-c", CONVOLUTION]
    said = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, check=True)
    lines = [line for line in said.stdout.splitlines() if line.startswith("[")]
    exact, older, limited, rounded = (np.array(json.loads(line)) for line in lines)
    np.testing.assert_array_equal(older, exact)
    np.testing.assert_array_equal(limited, exact)
    if "avx512_bf16" in runtime.description()["instructions"].split():
        assert (rounded != exact).any()
        np.testing.assert_allclose(rounded, exact, atol=0.05)
    else:
        np.testing.assert_array_equal(rounded, exact)
