"""The graph of a functional net: its operations in order, and their application to another tensor.

`keras.models.clone_model` visits every operation with its inputs, those that are not layers, such
as `x + y`, too. It is the only public way to do so.
"""

from collections import Counter
from typing import Any, NamedTuple

import keras


class Call(NamedTuple):
    """An operation applied to tensors."""

    operation: Any  # a layer, or an operation of `keras.ops`
    inputs: list[keras.KerasTensor]
    output: Any  # a tensor or a list of them


def calls(net: keras.Model, x: keras.KerasTensor | None = None) -> list[Call]:
    """Apply the operations of a net once more, one by one; return the calls in topological order.

    Args:
        net: a functional model with one input and one output.
        x: what they are applied to, of the shape of the net's input; None for a new input.
    """
    found = []
    if x is None:
        x = keras.Input(net.input_shape[1:])

    def call(operation: Any, *arguments: Any, **options: Any) -> Any:
        output = operation(*arguments, **options)
        given = keras.tree.flatten((arguments, options))
        inputs = [tensor for tensor in given if isinstance(tensor, keras.KerasTensor)]
        found.append(Call(operation, inputs, output))
        return output

    keras.models.clone_model(net, x, lambda operation: operation, call_function=call)
    return found


def pairs(net: keras.Model) -> list[tuple[Any, Any]]:
    """Return (first, second) wherever only the second reads the first's output, and that alone."""
    done = calls(net)
    producer = {id(call.output): call.operation for call in done}
    read = Counter(id(tensor) for call in done for tensor in call.inputs)
    read[id(done[-1].output)] += 1  # by the caller
    return [
        (producer[id(tensor)], call.operation)
        for call in done
        for tensor in call.inputs
        if len(call.inputs) == 1 and id(tensor) in producer and read[id(tensor)] == 1
    ]


def applied(net: keras.Model, x: keras.KerasTensor) -> keras.KerasTensor:
    """Like `net(x)`, with the same layers, without nesting."""
    return calls(net, x)[-1].output


def pooled(net: keras.Model) -> keras.Model:
    """Return a net with global average pooling after it: (n, h, w, channels) -> (n, channels)."""
    features = keras.layers.GlobalAveragePooling2D(name="pooling")(net.output)
    return keras.Model(net.input, features)
