"""Pickles of plain values and arrays of bytes, read without `pickle`.

`pickle` calls what a file tells it to. Kept from that, it can still be made to take any amount of
memory (a memo entry of a high number) or to crash (a key of deeply nested tuples). Here the
operations that CIFAR-10's files consist of are carried out, a limited number of them, and nothing
is ever called or looked up.
"""

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stages.transfer.errors import PipelineError

# Each takes at most about a hundred bytes beside what it holds; a batch of CIFAR-10 has 40,000.
OPERATIONS_LIMIT = 2**20
DIMENSIONS_LIMIT = 2  # images by values
SIZE_LIMIT = 2**31

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
PYTHON_2_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = {"PROTO", "FRAME"}


class _Name(NamedTuple):
    """A function or class that a pickle asks for, which stays a name."""

    module: str
    name: str


RECONSTRUCT = {_Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
NDARRAY = _Name("numpy", "ndarray")
DTYPE = _Name("numpy", "dtype")


class _UnsignedBytes:
    """Stands for the dtype uint8."""


class _Unfilled:
    """Stands for an array whose shape and bytes are still to come."""

    array: np.ndarray | None = None


def loads(content: bytes) -> Any:
    """Read a pickle of None, booleans, numbers, strings, lists, tuples, dictionaries, uint8 arrays.

    Args:
        content: a pickle of protocol 0 to 4, by Python 2 or 3. Its end is where it says so.

    Returns:
        The value. Strings of Python 2 are bytes. Arrays, which cannot be written to, are found only
        as the value itself or in the dictionary that it is.

    Raises:
        PipelineError: it is damaged, too long, or holds anything else.
    """
    reader = _Reader()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count == OPERATIONS_LIMIT:
                raise PipelineError(f"more than {OPERATIONS_LIMIT} operations")
            reader.carry_out(opcode.name, argument)
        (value,) = reader.stack
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        # What these say is about the reader, and may quote the file at any length.
        raise PipelineError(f"damaged ({type(error).__name__})") from error
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items()}
    return _filled(value)


def _filled(value: Any) -> Any:
    return value.array if type(value) is _Unfilled else value


class _Reader:
    """The machine that a pickle is a program for: a stack, marks in it, a memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def carry_out(self, name: str, argument: Any) -> None:
        """Carry out one operation, named and decoded as `pickletools` does."""
        stack = self.stack
        if name in NUMBERS or name in TEXTS or name in BYTES:
            stack.append(argument)
        elif name in PYTHON_2_STRINGS:
            stack.append(argument.encode("latin-1"))
        elif name in PUTS:
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in GETS:
            stack.append(self._memo[argument])
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in TUPLES:
            self._replace(TUPLES[name], tuple)
        elif name in CONTAINERS:
            stack.append(CONTAINERS[name](self._after_mark()))
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._after_mark()
            _expect(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._after_mark()
            _expect(stack[-1], dict).update(_dictionary(items))
        elif name == "GLOBAL":
            stack.append(_allowed(_Name(*argument.split(" ", 1))))
        elif name == "STACK_GLOBAL":
            stack.append(_allowed(_Name(*(_expect(part, str) for part in self._pop(2)))))
        elif name == "REDUCE":
            self._replace(2, lambda pair: _reduced(*pair))
        elif name == "BUILD":
            target, state = self._pop(2)
            stack.append(_built(target, state))
        elif name not in IGNORED and name != "STOP":
            raise PipelineError(f"the operation {name}")

    def _pop(self, count: int) -> list[Any]:
        """Take the last items off the stack, none of them before the last mark."""
        start = len(self.stack) - count
        if start < (self._marks[-1] if self._marks else 0):
            raise IndexError
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _replace(self, count: int, make: Any) -> None:
        self.stack.append(make(self._pop(count)))

    def _after_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _dictionary(items: list[Any]) -> dict[Any, Any]:
    """Make a dictionary of keys and values in turn.

    Keys are strings: to hash a tuple, CPython recurses into it until it crashes.
    """
    keys = items[::2]
    if not all(type(key) in (bytes, str) for key in keys):
        raise TypeError
    return dict(zip(keys, items[1::2], strict=True))


CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": _dictionary,
}


def _allowed(asked: _Name) -> _Name:
    for name in (*RECONSTRUCT, NDARRAY, DTYPE):
        if asked == name:
            return name
    raise PipelineError(f"it asks for {'.'.join(part[:40] for part in asked)!r}")


def _reduced(function: _Name, arguments: Any) -> Any:
    """Stand in for a call. What NumPy would make of other arguments is not wanted."""
    first = _expect(arguments, tuple)[0]
    if _expect(function, _Name) in RECONSTRUCT and first is NDARRAY:
        return _Unfilled()
    if function is not DTYPE or type(first) not in (bytes, str):
        raise TypeError
    if first not in ("u1", b"u1"):
        raise PipelineError(f"an array of the type {first[:8]!r}, expected uint8")
    return _UnsignedBytes()


def _built(target: Any, state: Any) -> Any:
    """Fill an array, once. A dtype's state is about byte order and fields; single bytes have none.

    Args:
        target: an array or a dtype.
        state: for an array: version, shape, dtype, whether columns come first, bytes.
    """
    if type(target) is _UnsignedBytes:
        return target
    _, shape, dtype, columns_first, content = _expect(state, tuple)
    _expect(dtype, _UnsignedBytes)
    if _expect(target, _Unfilled).array is not None:
        raise TypeError
    if (
        type(shape) is not tuple
        or len(shape) > DIMENSIONS_LIMIT
        or not all(type(size) is int and 0 <= size < SIZE_LIMIT for size in shape)
    ):
        raise PipelineError(f"an array of a shape that is not one or two sizes under {SIZE_LIMIT}")
    flat = np.frombuffer(_expect(content, bytes), np.uint8)
    target.array = flat.reshape(shape, order="F" if columns_first is True else "C")
    return target
