"""What a pickle is made of: parts of a file, values that are not made yet, and their settling.

Large data stay in the file until the whole pickle has been read and judged.
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
"""Steps a pickle may take, and values it may hold with shared ones counted at every place."""

MOST_LEVELS = 100
"""Containers within containers: training scripts nest a handful."""

_PIECE = 1 << 20

LONGEST_NAME = 1000


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
        most = min(LONGEST_NAME, self.size - self.position)
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


_WORD = (1 << 61) - 1
"""Whole numbers below it have hashes of their own, so a file cannot make a dictionary slow."""


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
