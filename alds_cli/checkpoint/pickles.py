"""An interpreter of pickles that calls nothing a file names.

A pickle is a program. Python's own unpickler runs it with whatever functions it asks for; this one
knows plain values and containers, and hands every name, call and persistent identifier to an
interpretation that decides what it stands for (`alds_cli.checkpoint.pickled_values`). Nothing is
imported, no attribute looked up, and what the file can cost is bounded.
"""

from __future__ import annotations

import codecs
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

MOST_VALUES = 2_000_000
"""Steps a pickle may take, and values it may hold with shared ones counted at every place."""

MOST_LEVELS = 100
"""Containers within containers: training scripts nest a handful."""

_LARGE = 1 << 16
"""Bytes from which data stay in the file until they are needed."""

_PIECE = 1 << 20

_LONGEST_NUMBER = 1024
"""Bytes of a whole number; a random generator's state has 16, and Python prints no longer ones."""

_LONGEST_NAME = 1000

_WORD = (1 << 61) - 1
"""Whole numbers below it have hashes of their own, so a file cannot make a dictionary slow."""


class MalformedError(ValueError):
    """The bytes are no sound file of their kind, or ask for more than a file of their size may."""


class TruncatedError(MalformedError):
    """A part of the file is missing, or its bytes have changed on the way."""


class UnsupportedError(ValueError):
    """The file is sound, but of a kind that is not read."""


class NeedsCodeError(UnsupportedError):
    """What the pickle holds can only be made by running code.

    Attributes:
        names: the functions and classes that it asks for.
    """

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """What nothing here looks into: known to be harmless, and not constructed.

    Attributes:
        what: a noun phrase for messages.
        tensor: it stands where a tensor is expected, though it cannot be used as one.
    """

    what: str
    tensor: bool = False

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that a pickle mentions, `module.name`; it is never looked up."""

    name: str


class ByteText(str):
    """A string as Python 2 pickled it, which is text in one place and data in another."""

    __slots__ = ("raw",)
    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> ByteText:
        """The text in UTF-8 where it is some, else in Latin-1, with the bytes beside it."""
        try:
            text = cls(raw.decode())
        except UnicodeDecodeError:
            text = cls(raw.decode("latin-1"))
        text.raw = raw
        return text


class Window:
    """A part of a file; no read leaves it."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file = file
        self.start = start
        self.size = size
        self.position = 0
        file.seek(start)

    def take(self, count: int) -> bytes:
        """The next bytes, exactly as many as asked.

        Raises:
            MalformedError: there are not as many.
        """
        if count > self.size - self.position:
            raise TruncatedError("it ends too early")
        content = self.file.read(count)
        if len(content) != count:
            raise TruncatedError("it ends too early")
        self.position += count
        return content

    def line(self) -> str:
        """The text up to the next line feed."""
        most = min(_LONGEST_NAME, self.size - self.position)
        content = self.file.readline(most)
        if not content.endswith(b"\n"):
            raise MalformedError("it ends within a name")
        self.position += len(content)
        return content[:-1].decode()

    def skip(self, count: int) -> Blob:
        """Step over the next bytes; they stay in the file."""
        if count > self.size - self.position:
            raise TruncatedError("it ends too early")
        blob = Blob(self.file, self.start + self.position, count)
        self.position += count
        self.file.seek(self.start + self.position)
        return blob


class Unfinished(ABC):
    """A value that is known, and made when the whole pickle has been read and judged."""

    @abstractmethod
    def finish(self) -> object:
        """The value; made once."""


class Blob(Unfinished):
    """Many bytes, still in the file, so that they go straight to where they belong."""

    def __init__(self, file: BinaryIO, start: int, size: int, kind: str = "bytes") -> None:
        self.file = file
        self.start = start
        self.size = size
        self.kind = kind
        self._value: object = None

    def as_kind(self, kind: str) -> Blob:
        """The same bytes, meant as `bytes`, `bytearray`, `text`, `latin-1` or `byte text`.

        `latin-1` are bytes that were written as text, one character for each.
        """
        return Blob(self.file, self.start, self.size, kind)

    def raw(self) -> bytes:
        """The bytes as they stand in the file."""
        with self._place():
            content = self.file.read(self.size)
        if len(content) != self.size:
            raise TruncatedError("it ends too early")
        return content

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Go to the bytes and come back, since others read on from where they were."""
        back = self.file.tell()
        self.file.seek(self.start)
        yield
        self.file.seek(back)

    def read_into(self, target: memoryview) -> None:
        """The bytes that are meant, straight to where they belong.

        Raises:
            MalformedError: they are not just as many as there is room for.
        """
        done = 0
        with self._place():
            if self.kind != "latin-1":
                done = fill(self.file, target) if len(target) == self.size else -1
            else:
                for piece in self._pieces():
                    target[done : done + len(piece)] = piece[: len(target) - done]
                    done += len(piece)
        if done != len(target):
            raise MalformedError("its data are not as long as they should be")

    def _pieces(self) -> Iterator[bytes]:
        """The bytes that were written as text, a part at a time, from the place in the file."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, self.size, _PIECE):
            piece = self.file.read(min(_PIECE, self.size - start))
            yield decoder.decode(piece, final=start + _PIECE >= self.size).encode("latin-1")

    def finish(self) -> object:
        """What the pickle means by them."""
        if self._value is None:
            raw = self.raw()
            match self.kind:
                case "text":
                    self._value = raw.decode()
                case "latin-1":
                    self._value = raw.decode().encode("latin-1")
                case "byte text":
                    self._value = ByteText.of(raw)
                case "bytearray":
                    self._value = bytearray(raw)
                case _:
                    self._value = raw
        return self._value


def fill(file: BinaryIO, target: memoryview) -> int:
    """Read until the target is full or the file ends; the number of bytes read."""
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


class Interpretation(Protocol):
    """What the names in a pickle stand for."""

    def refer(self, name: str) -> object:
        """The value for a dotted name that the pickle mentions."""

    def call(self, function: object, arguments: object) -> object:
        """The value for a call, without making it."""

    def build(self, value: object, state: object) -> object:
        """The value once the pickle has given it a state."""

    def persistent(self, identifier: object) -> object:
        """The value kept outside the pickle under an identifier."""


def interpret(window: Window, meaning: Interpretation) -> object:
    """Run one pickle from where the window stands to its end.

    Large data come as `Blob`, and shared or cyclic containers as they are: `settle` judges them.

    Raises:
        MalformedError: it is no whole pickle, or too large.
        UnsupportedError: it uses what is not known here.
    """
    machine = _Machine(window, meaning)
    try:
        return machine.run()
    except (MalformedError, UnsupportedError):
        raise
    except UnicodeDecodeError as error:
        raise MalformedError("its pickle holds text that is not Unicode") from error
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        # A program that takes from an empty stack, or puts a value where it cannot be.
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
        """An integer in the bytes that follow."""
        (value,) = struct.unpack(form, self.window.take(struct.calcsize(form)))
        return int(value)

    def after_mark(self) -> list[object]:
        """What was put on the stack since the last mark."""
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
    """Bytes or text with its length before it."""

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
    machine.window.take(8)  # a length that is of use to those who read ahead


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


def as_key(value: object) -> object:
    """A key that hashes in constant time and cannot be made to collide; else one of its own.

    Only names and numbers lead to tensors, so nothing is lost by not telling other keys apart.
    """
    if isinstance(value, Blob):
        value = value.finish()
    if value is None or isinstance(value, (str, bytes, float)):
        return value
    if isinstance(value, int) and -_WORD < value < _WORD:
        return value
    return Opaque(f"a key of type {type(value).__name__}")


def _global(machine: _Machine) -> None:
    module, name = machine.window.line(), machine.window.line()
    machine.push(machine.meaning.refer(f"{module}.{name}"))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError
    if len(module) + len(name) > _LONGEST_NAME:
        raise MalformedError("its pickle holds a name that is too long")
    machine.push(machine.meaning.refer(f"{module}.{name}"))


def _call(machine: _Machine) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.push(machine.meaning.call(function, arguments))


def _call_with_keywords(machine: _Machine) -> None:
    machine.stack.pop()  # of the harmless kinds none takes any
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

Left out are the text forms of protocol 0, registered extensions and buffers outside the pickle.
"""


@dataclass(slots=True)
class _Settled:
    """What was seen: what it has become, and its size and depth with all that is in it."""

    original: object  # kept, so that no other object takes its address
    value: object
    values: int = 1
    levels: int = 1


def settle(root: object) -> object:
    """Judge what a pickle made, and put the values in the places of unfinished ones.

    Args:
        root: plain values, dictionaries, lists and tuples, shared in any way.

    Returns:
        The same dictionaries and lists, changed in place; tuples are replaced where they must be.

    Raises:
        MalformedError: it is cyclic, deeper than `MOST_LEVELS`, or has more than `MOST_VALUES`
            values when every shared one is counted at each of its places.
    """
    seen: dict[int, _Settled] = {}
    within: set[int] = set()
    todo: list[tuple[object, bool]] = [(root, False)]
    while todo:
        item, children_done = todo.pop()
        address = id(item)
        if children_done:
            within.discard(address)
            seen[address] = _close(item, seen)
        elif address in within:
            raise MalformedError("its pickle holds a container that contains itself")
        elif address in seen:
            continue
        elif isinstance(item, Unfinished):
            seen[address] = _Settled(item, item.finish())
        elif isinstance(item, (dict, list, tuple)):
            within.add(address)
            if len(within) > MOST_LEVELS:
                raise _too_deep()
            todo.append((item, True))
            todo.extend((child, False) for child in _children(item) if isinstance(child, _WATCHED))
    return seen[id(root)].value if id(root) in seen else root


_WATCHED = (dict, list, tuple, Unfinished)


def _children(container: object) -> Iterable[object]:
    if isinstance(container, dict):
        return container.values()
    assert isinstance(container, (list, tuple))  # noqa: S101 - for the type checker
    return container


def _close(container: object, seen: Mapping[int, _Settled]) -> _Settled:
    """Finish a container whose children are finished."""
    values, levels, changed = 1, 1, False
    results = []
    for child in _children(container):
        settled = seen.get(id(child)) if isinstance(child, _WATCHED) else None
        results.append(child if settled is None else settled.value)
        values += 1 if settled is None else settled.values
        levels = max(levels, 1 + settled.levels if settled else 2)
        changed = changed or (settled is not None and settled.value is not child)
    if values > MOST_VALUES:
        raise MalformedError(
            f"its pickle stands for more than {MOST_VALUES:,} values, most of them the same again"
        )
    if levels > MOST_LEVELS:
        raise _too_deep()
    return _Settled(
        container, _with_children(container, results) if changed else container, values, levels
    )


def _with_children(container: object, children: Sequence[object]) -> object:
    if isinstance(container, dict):
        container.update(zip(list(container), children, strict=True))
    elif isinstance(container, list):
        container[:] = children
    else:
        return tuple(children)
    return container


def _too_deep() -> MalformedError:
    return MalformedError(f"its pickle nests containers more than {MOST_LEVELS} levels deep")
