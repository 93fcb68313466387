"""The parts of a pickle: windows on a file, values that are not made yet, and their completion.

Large data stay in the file until the whole pickle has been read and checked.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from alds_cli.checkpoint.files import (
    MalformedError,
    TruncatedError,
    fill,
)

MOST_VALUES = 2_000_000
"""The most steps of a pickle, and the most values, with shared ones counted at every place."""

MOST_LEVELS = 100
"""The most levels of nested containers; training scripts nest only a few."""

_PIECE = 1 << 20

LONGEST_NAME = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A value that is known to be harmless, is never looked into, and is not constructed.

    Attributes:
        what: a noun phrase for messages.
        tensor: whether it replaces a tensor, although it cannot be used as one.
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
    """A string pickled by Python 2, which may be text or data."""

    __slots__ = ("raw",)
    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> ByteText:
        """Decode the bytes as UTF-8, or else as Latin-1, and keep them beside the text."""
        try:
            text = cls(raw.decode())
        except UnicodeDecodeError:
            text = cls(raw.decode("latin-1"))
        text.raw = raw
        return text


class Window:
    """A part of a file, which no read can leave."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file = file
        self.start = start
        self.size = size
        self.position = 0
        file.seek(start)

    def take(self, count: int) -> bytes:
        """Read exactly `count` bytes.

        Raises:
            MalformedError: the window has fewer bytes left.
        """
        if count > self.size - self.position:
            raise TruncatedError("it ends too early")
        content = self.file.read(count)
        if len(content) != count:
            raise TruncatedError("it ends too early")
        self.position += count
        return content

    def line(self) -> str:
        """Read the text up to the next line feed."""
        most = min(LONGEST_NAME, self.size - self.position)
        content = self.file.readline(most)
        if not content.endswith(b"\n"):
            raise MalformedError("it ends within a name")
        self.position += len(content)
        return content[:-1].decode()

    def skip(self, count: int) -> Blob:
        """Skip the next bytes, and return a reference to them in the file."""
        if count > self.size - self.position:
            raise TruncatedError("it ends too early")
        blob = Blob(self.file, self.start + self.position, count)
        self.position += count
        self.file.seek(self.start + self.position)
        return blob


class Unfinished(ABC):
    """A value that is made only when the whole pickle has been read and checked."""

    @abstractmethod
    def finish(self) -> object:
        """Return the value, which is made once."""


class Blob(Unfinished):
    """Many bytes that stay in the file until they can be read into their final place."""

    def __init__(self, file: BinaryIO, start: int, size: int, kind: str = "bytes") -> None:
        self.file = file
        self.start = start
        self.size = size
        self.kind = kind
        self._value: object = None

    def as_kind(self, kind: str) -> Blob:
        """Return the same bytes as `bytes`, `bytearray`, `text`, `latin-1` or `byte text`.

        `latin-1` means bytes that were written as text, with one character for each.
        """
        return Blob(self.file, self.start, self.size, kind)

    def raw(self) -> bytes:
        """Read the bytes as they are in the file."""
        with self._place():
            content = self.file.read(self.size)
        if len(content) != self.size:
            raise TruncatedError("it ends too early")
        return content

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Seek to the bytes for the block, then back to where other reads continue."""
        back = self.file.tell()
        self.file.seek(self.start)
        yield
        self.file.seek(back)

    def read_into(self, target: memoryview) -> None:
        """Read the decoded bytes into the target.

        Raises:
            MalformedError: their number is not the target's size.
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
        """Yield, part by part, the bytes that were written as text."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, self.size, _PIECE):
            piece = self.file.read(min(_PIECE, self.size - start))
            yield decoder.decode(piece, final=start + _PIECE >= self.size).encode("latin-1")

    def finish(self) -> object:
        """Return the value that the bytes stand for."""
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


@dataclass(slots=True)
class _Settled:
    """A settled object: its final value, and its size and depth including its content."""

    original: object  # kept so that no other object gets its address
    value: object
    values: int = 1
    levels: int = 1


def settle(root: object) -> object:
    """Check what a pickle made, and replace unfinished values by the finished ones.

    Args:
        root: plain values, dictionaries, lists and tuples, shared in any way.

    Returns:
        The same dictionaries and lists, changed in place; tuples are replaced if necessary.

    Raises:
        MalformedError: `root` is cyclic, deeper than `MOST_LEVELS`, or has over `MOST_VALUES`
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


_WORD = (1 << 61) - 1
"""Whole numbers below this have distinct hashes, so that no file can make a dictionary slow."""


def as_key(value: object) -> object:
    """Return a key that hashes in constant time and cannot be made to collide.

    Keys of other types are replaced by opaque ones: only names and numbers lead to tensors.
    """
    if isinstance(value, Blob):
        value = value.finish()
    if value is None or isinstance(value, (str, bytes, float)):
        return value
    if isinstance(value, int) and -_WORD < value < _WORD:
        return value
    return Opaque(f"a key of type {type(value).__name__}")
