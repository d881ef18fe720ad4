"""Cut points: where a backbone can be split into a frozen prefix and a trainable suffix.

A cut point is an operation whose output is the only live tensor: everything that comes after is
computed from that tensor alone. They are found from the graph of operations, because some residual
additions (ConvNeXt's, for example) are operations but not layers.
"""

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras

from stages.errors import PipelineError
from stages.nets.graph import calls

# Within a window below the fraction that is to be frozen the cut point with the smallest output is
# taken, because that is what is stored for each image.
WINDOW = 0.1


def cut_points(net: keras.Model) -> list[str]:
    """Return the names of all cut points of a functional net, from input to output.

    In any topological order, all operations before a cut point are its ancestors and all after it
    its descendants, so one sweep that counts live tensors finds every cut point. The net has one
    input, which is left out, and one output, which is included; no layer is used twice in it.
    """
    image = keras.Input(net.input_shape[1:])
    done = calls(net, image)
    unread = Counter(id(tensor) for call in done for tensor in call.inputs)
    unread[id(done[-1].output)] += 1  # the model output counts as read

    live = {id(image)}
    names = []
    for call in done:
        unread.subtract(id(tensor) for tensor in call.inputs)
        made = {id(tensor) for tensor in keras.tree.flatten(call.output)}
        live = {tensor for tensor in live | made if unread[tensor]}
        if live == made and len(made) == 1:
            names.append(call.operation.name)
    return names


def frozen_fraction(net: keras.Model) -> dict[str, float]:
    """Return for each cut point, in order, the fraction of all multiplications up to and with it.

    Maps count as if strides never rounded up, so that it is the same at every image size.
    """
    points = set(cut_points(net))
    costs = {o.name: multiplications(o, net.input_shape) for o in net.operations}
    total = sum(costs.values()) or 1
    so_far = itertools.accumulate(costs.values())
    return {name: cost / total for name, cost in zip(costs, so_far, strict=True) if name in points}


def multiplications(operation: keras.Operation, input_shape: Sequence[Any]) -> float:
    """Return how many multiplications an operation does for an image of (None, h, w, channels).

    A kernel (all weights but biases, scales and averages, which are vectors) is applied at each
    position of the output. Attention, pooling and activations are not counted.
    """
    if not isinstance(operation, keras.layers.Layer) or isinstance(operation.output, list):
        return 0
    positions = math.prod(unrounded(operation.output.shape, input_shape)[:-1])
    return positions * sum(math.prod(w.shape) for w in operation.weights if len(w.shape) > 1)


def unrounded(shape: Sequence[Any], input_shape: Sequence[Any]) -> list[float]:
    """Return an output's shape, less its first axis, as if strides never rounded up.

    The sides become the image's, divided by the nearest power of two: at 112 px a map of 4x4,
    three strides after 28x28, counts as 3.5x3.5. With the sides as they are, the last layers would
    weigh more at 80 and 112 px than at 96, and a fraction would mean another cut point there.
    """
    own = [float(side) for side in shape[1:]]
    for axis, image in enumerate(input_shape[1:3] if len(shape) == 4 else ()):
        if own[axis] > 1:
            own[axis] = image / 2 ** round(math.log2(image / own[axis]))
    return own


def choose(net: keras.Model, cut: str | float) -> str:
    """Return the name of the cut point that a setting of `backbone.cut` means.

    That is a name; "all", the output; or the fraction in [0, 1] of the forward pass that is to be
    frozen at the most. Of the cut points within `WINDOW` below it, the one with the fewest
    activations is taken (ties: the last; empty window: the nearest below; none below: the first).

    Raises:
        PipelineError: `cut` names no cut point of the net.
    """
    frozen = frozen_fraction(net)
    points = list(frozen)
    if cut == "all":
        return points[-1]
    if isinstance(cut, str):
        fault = f"backbone.cut = {cut!r} is not a valid cut point of {net.name}"
        _check(cut, points, fault, "none, all, a fraction")
        return cut
    size = {
        o.name: math.prod(unrounded(o.output.shape, net.input_shape))
        for o in net.operations
        if o.name in frozen
    }
    below = [name for name in points if frozen[name] <= cut] or points[:1]
    window = [name for name in below if frozen[name] >= cut - WINDOW] or below[-1:]
    return min(reversed(window), key=lambda name: size[name])


def truncated(net: keras.Model, last_layer: str) -> keras.Model:
    """Return a net up to one of its layers; the two share their layers and weights.

    Raises:
        PipelineError: it has no such layer, or one that outputs no feature map (n, h, w, channels).
    """
    _, *layers = net.operations  # the first is the input
    maps = [layer.name for layer in layers if len(getattr(layer.output, "shape", ())) == 4]
    expected = f"a layer of {net.name} that outputs a feature map"
    fault = f"backbone.last_layer = {last_layer!r} is not {expected}"
    _check(last_layer, maps, fault, "all")
    return keras.Model(net.input, _output(net, last_layer), name=net.name)


def split(net: keras.Model, cut: str) -> tuple[keras.Model, keras.Model]:
    """Split a net at a cut point into a prefix and a suffix, which share its layers and weights.

    `suffix(prefix(x))` equals `net(x)`.
    """
    at_cut = _output(net, cut)
    prefix = keras.Model(net.input, at_cut, name="prefix")
    if at_cut is net.output:  # all of it is frozen; Keras builds no model without an operation
        unchanged = keras.Input(net.output_shape[1:])
        return prefix, keras.Model(unchanged, keras.layers.Identity()(unchanged), name="suffix")
    return prefix, keras.Model(at_cut, net.output, name="suffix")


def _output(net: keras.Model, name: str) -> keras.KerasTensor:
    return next(operation for operation in net.operations if operation.name == name).output


def _check(name: str, names: list[str], fault: str, others: str) -> None:
    if name not in names:
        near = ", ".join(difflib.get_close_matches(name, names, 4, cutoff=0.0))
        raise PipelineError(f"{fault}; nearest: {near} (or {others})")
