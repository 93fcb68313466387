"""An interpreter of pickles that calls nothing a file names.

A pickle is a program. Python's own unpickler runs it with whatever functions it asks for. This one
knows plain values and containers, and passes every name, call and persistent identifier to an
interpretation that decides on its meaning (`alds_cli.checkpoint.pickled_values`). Nothing is
imported, no attribute is looked up, and the cost of any file is bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from alds_cli.checkpoint.files import (
    MalformedError,
    NeedsCodeError,
    TruncatedError,
    UnsupportedError,
)
from alds_cli.checkpoint.pickle_items import (
    LONGEST_NAME,
    MOST_VALUES,
    ByteText,
    Opaque,
    Window,
    as_key,
)

_LARGE = 1 << 16
"""Data of at least this many bytes stay in the file until they are needed."""

_LONGEST_NUMBER = 1024
"""The most bytes of a whole number; a generator's state has 16, and Python prints no more."""


class Interpretation(Protocol):
    """The meaning of the names in a pickle."""

    def refer(self, name: str) -> object:
        """Return the value of a dotted name that the pickle mentions."""

    def call(self, function: object, arguments: object) -> object:
        """Return the value of a call, without making the call."""

    def build(self, value: object, state: object) -> object:
        """Return the value after the pickle has given it a state."""

    def persistent(self, identifier: object) -> object:
        """Return the value kept outside the pickle under an identifier."""


def interpret(window: Window, meaning: Interpretation) -> object:
    """Run one pickle, from the window's position to its end.

    Large data become `Blob`s; shared or cyclic containers stay as they are for `settle` to check.

    Raises:
        MalformedError: it is not a whole pickle, or too large.
        UnsupportedError: it uses operations that are not supported.
    """
    machine = _Machine(window, meaning)
    try:
        return machine.run()
    except (MalformedError, UnsupportedError):
        raise
    except UnicodeDecodeError as error:
        raise MalformedError("its pickle holds text that is not Unicode") from error
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        # The program takes a value from an empty stack, or puts one where it cannot be.
        raise TruncatedError("its pickle is damaged") from error


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, window: Window, meaning: Interpretation) -> None:
        self.window = window
        self.meaning = meaning
        self.stack: list[object] = []
        self.outer: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        take, operations = self.window.take, _OPERATIONS
        for _ in range(MOST_VALUES):
            code = take(1)
            if code == b".":
                return self.stack.pop()
            operation = operations.get(code)
            if operation is None:
                raise NeedsCodeError(f"its pickle uses the operation {code!r}")
            operation(self)
        raise MalformedError(
            f"its pickle takes more than {MOST_VALUES:,} steps: it holds far more than a network"
        )

    def number(self, form: str) -> int:
        """Read an integer from the bytes that follow."""
        (value,) = struct.unpack(form, self.window.take(struct.calcsize(form)))
        return int(value)

    def after_mark(self) -> list[object]:
        """Take everything off the stack that was put there since the last mark."""
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def push(self, value: object) -> None:
        self.stack.append(value)


def _constant(value: object) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value)


def _empty(kind: Callable[[], object]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(kind())


def _integer(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(machine.number(form))


def _data(form: str, kind: str) -> Callable[[_Machine], None]:
    """Return the operation for bytes or text preceded by its length."""

    def operation(machine: _Machine) -> None:
        length = machine.number(form)
        if length < 0:
            raise MalformedError("its pickle is damaged: a length is negative")
        if length >= _LARGE:
            machine.push(machine.window.skip(length).as_kind(kind))
            return
        raw = machine.window.take(length)
        if kind == "text":
            machine.push(raw.decode())
        elif kind == "byte text":
            machine.push(ByteText.of(raw))
        else:
            machine.push(bytearray(raw) if kind == "bytearray" else raw)

    return operation


def _long(form: str) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        length = machine.number(form)
        if not 0 <= length <= _LONGEST_NUMBER:
            raise MalformedError(f"its pickle holds a whole number of {length:,} bytes")
        machine.push(int.from_bytes(machine.window.take(length), "little", signed=True))

    return operation


def _float(machine: _Machine) -> None:
    machine.push(struct.unpack(">d", machine.window.take(8))[0])


def _tuple(count: int) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        if len(machine.stack) < count:
            raise IndexError
        items = tuple(machine.stack[-count:])
        del machine.stack[-count:]
        machine.push(items)

    return operation


def _put(form: str) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        machine.memo[machine.number(form)] = machine.stack[-1]

    return operation


def _get(form: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(machine.memo[machine.number(form)])


def _memoise(machine: _Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _mark(machine: _Machine) -> None:
    machine.outer.append(machine.stack)
    machine.stack = []


def _pop(machine: _Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.after_mark()


def _pop_mark(machine: _Machine) -> None:
    machine.after_mark()


def _duplicate(machine: _Machine) -> None:
    machine.push(machine.stack[-1])


def _frame(machine: _Machine) -> None:
    machine.window.take(8)  # a length for readers that read ahead


def _list(machine: _Machine) -> None:
    machine.push(machine.after_mark())


def _tuple_since_mark(machine: _Machine) -> None:
    machine.push(tuple(machine.after_mark()))


def _dictionary(machine: _Machine) -> None:
    found: dict[object, object] = {}
    _fill(found, machine.after_mark())
    machine.push(found)


def _frozen_set(machine: _Machine) -> None:
    machine.push(frozenset(map(as_key, machine.after_mark())))


def _append(machine: _Machine) -> None:
    value = machine.stack.pop()
    _extend(machine.stack[-1], [value])


def _appends(machine: _Machine) -> None:
    items = machine.after_mark()
    _extend(machine.stack[-1], items)


def _extend(target: object, items: list[object]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Opaque):
        raise TypeError


def _add_items(machine: _Machine) -> None:
    items = machine.after_mark()
    target = machine.stack[-1]
    if not isinstance(target, set):
        raise TypeError
    target.update(map(as_key, items))


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _fill(machine.stack[-1], [key, value])


def _set_items(machine: _Machine) -> None:
    items = machine.after_mark()
    _fill(machine.stack[-1], items)


def _fill(target: object, items: list[object]) -> None:
    if isinstance(target, Opaque):
        return
    if not isinstance(target, dict) or len(items) % 2:
        raise TypeError
    target.update(zip(map(as_key, items[::2]), items[1::2], strict=True))


def _global(machine: _Machine) -> None:
    module, name = machine.window.line(), machine.window.line()
    machine.push(machine.meaning.refer(f"{module}.{name}"))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError
    if len(module) + len(name) > LONGEST_NAME:
        raise MalformedError("its pickle holds a name that is too long")
    machine.push(machine.meaning.refer(f"{module}.{name}"))


def _call(machine: _Machine) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.push(machine.meaning.call(function, arguments))


def _call_with_keywords(machine: _Machine) -> None:
    machine.stack.pop()  # no harmless kind takes keywords
    _call(machine)


def _instance(machine: _Machine) -> None:
    module, name = machine.window.line(), machine.window.line()
    arguments = tuple(machine.after_mark())
    machine.push(machine.meaning.call(machine.meaning.refer(f"{module}.{name}"), arguments))


def _object(machine: _Machine) -> None:
    function, *arguments = machine.after_mark()
    machine.push(machine.meaning.call(function, tuple(arguments)))


def _build(machine: _Machine) -> None:
    state = machine.stack.pop()
    machine.stack[-1] = machine.meaning.build(machine.stack[-1], state)


def _persistent(machine: _Machine) -> None:
    machine.push(machine.meaning.persistent(machine.stack.pop()))


def _protocol(machine: _Machine) -> None:
    if (version := machine.number("<B")) > 5:
        raise NeedsCodeError(f"its pickle has protocol {version}; this version reads up to 5")


_OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"(": _mark,
    b"0": _pop,
    b"1": _pop_mark,
    b"2": _duplicate,
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"J": _integer("<i"),
    b"K": _integer("<B"),
    b"M": _integer("<H"),
    b"\x8a": _long("<B"),
    b"\x8b": _long("<i"),
    b"G": _float,
    b"U": _data("<B", "byte text"),
    b"T": _data("<i", "byte text"),
    b"\x8c": _data("<B", "text"),
    b"X": _data("<I", "text"),
    b"\x8d": _data("<Q", "text"),
    b"C": _data("<B", "bytes"),
    b"B": _data("<I", "bytes"),
    b"\x8e": _data("<Q", "bytes"),
    b"\x96": _data("<Q", "bytearray"),
    b")": _constant(()),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"t": _tuple_since_mark,
    b"]": _empty(list),
    b"l": _list,
    b"a": _append,
    b"e": _appends,
    b"}": _empty(dict),
    b"d": _dictionary,
    b"s": _set_item,
    b"u": _set_items,
    b"\x8f": _empty(set),
    b"\x90": _add_items,
    b"\x91": _frozen_set,
    b"q": _put("<B"),
    b"r": _put("<I"),
    b"\x94": _memoise,
    b"h": _get("<B"),
    b"j": _get("<I"),
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _call,
    b"\x81": _call,
    b"\x92": _call_with_keywords,
    b"i": _instance,
    b"o": _object,
    b"b": _build,
    b"Q": _persistent,
}
"""The binary operations of protocols 1 to 5.

Text forms of protocol 0, registered extensions and buffers outside the pickle are left out.
"""
