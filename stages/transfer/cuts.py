"""Cut points: where a backbone can be split into a frozen prefix and a trainable suffix.

A cut point is an operation whose output is the only live tensor: everything that comes after is
computed from that tensor alone. They are found from the graph of operations, because some
residual additions (ConvNeXt's, say) are operations of the graph but not layers of the model.
"""

import difflib

import keras

from stages.transfer.errors import PipelineError


def cut_points(net: keras.Model) -> list[str]:
    """Return the names of all cut points of a functional net, from input to output.

    In any topological order of the operations, what is before a cut point feeds it and what is
    after reads it, so one sweep that counts the live tensors finds every cut point.

    Args:
        net: a functional Keras model with one input and one output, no layer used twice in it.

    Returns:
        Names of operations, in topological order; the input is left out, the output is included.
    """
    nodes = [
        node
        for depth in sorted(net._nodes_by_depth, reverse=True)
        for node in net._nodes_by_depth[depth]
    ]
    readers: dict[int, int] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    readers[id(net.output)] = readers.get(id(net.output), 0) + 1

    live: set[int] = set()
    names = []
    for node in nodes:
        for tensor in node.input_tensors:
            readers[id(tensor)] -= 1
            if readers[id(tensor)] == 0:
                live.discard(id(tensor))
        live.update(id(tensor) for tensor in node.outputs if readers.get(id(tensor)))
        if len(node.outputs) == 1 and live == {id(node.outputs[0])} and not node.is_input:
            names.append(node.operation.name)
    return names


def split(net: keras.Model, cut: str) -> tuple[keras.Model, keras.Model]:
    """Split a net at a cut point. The two parts share their layers and weights with the net.

    Args:
        net: a functional Keras model with one input and one output.
        cut: the name of a cut point.

    Returns:
        prefix, from the net's input to the cut, and suffix, from the cut to the net's output:
        `suffix(prefix(x))` equals `net(x)`.

    Raises:
        PipelineError: `cut` is not a cut point of the net.
    """
    points = cut_points(net)
    if cut not in points:
        raise PipelineError(
            f"backbone.cut = {cut!r} is no cut point of {net.name}; "
            f"nearest: {', '.join(nearest(cut, points, net))}"
        )
    at_cut = next(op for op in net.operations if op.name == cut).output
    prefix = keras.Model(net.input, at_cut, name="prefix")
    if at_cut is net.output:  # all of it is frozen; Keras builds no model without an operation
        unchanged = keras.Input(net.output_shape[1:])
        return prefix, keras.Model(unchanged, keras.layers.Identity()(unchanged), name="suffix")
    suffix = keras.Model(at_cut, net.output, name="suffix")
    return prefix, suffix


def nearest(cut: str, points: list[str], net: keras.Model, count: int = 4) -> list[str]:
    """Return the cut points nearest to a name that is none.

    Nearest in the graph if the net has an operation of that name, else nearest in spelling.
    """
    order = [operation.name for operation in net.operations]
    if cut in order:
        position = order.index(cut)
        by_distance = sorted(points, key=lambda name: abs(order.index(name) - position))
        return sorted(by_distance[:count], key=order.index)
    return difflib.get_close_matches(cut, points, count, cutoff=0.0)
