"""Tensors and NumPy arrays of a pickle that have no data yet, and limits on their size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, UntypedStorage

from alds_cli.checkpoint.files import MalformedError, NeedsCodeError
from alds_cli.checkpoint.pickle_items import (
    Blob,
    ByteText,
    Opaque,
    Unfinished,
)

_ALLOWANCE = 16 << 20

_EXPANSION = 4
"""Tensors that share data may take this many times the file's size, plus the allowance."""

_MOST_DIMENSIONS = 64


class Limits:
    """Limits on what the pickles of one file may claim, which follow from the file's size."""

    def __init__(self, nbytes: int, data: int | None = None) -> None:
        """Start counting.

        Args:
            nbytes: the file's size in bytes.
            data: the size in bytes of what is unpacked from it, if it is packed.
        """
        self.nbytes = nbytes
        self._data_left = self._copies_left = nbytes if data is None else data
        self._views_left = _EXPANSION * nbytes + _ALLOWANCE
        self._views: set[tuple[object, ...]] = set()

    def claim_data(self, count: int) -> None:
        """Count bytes that the file claims to hold, which cannot exceed its size."""
        self._data_left -= count
        if self._data_left < 0:
            raise MalformedError(f"it asks for more data than its {self.nbytes:,} bytes can hold")

    def claim_copies(self, count: int) -> None:
        """Count bytes that are converted to another form, once for each in a sound file."""
        self._copies_left -= count
        if self._copies_left < 0:
            raise MalformedError("its pickle copies the same content again and again")

    def claim_view(
        self, shape: Sequence[int], itemsize: int, place: tuple[object, ...] | None
    ) -> None:
        """Count a tensor's memory, once for each distinct part of a storage.

        Tensors that repeat elements could otherwise make a huge network from a few bytes.
        """
        if place in self._views:
            return
        if place is not None:
            self._views.add(place)
        needed = itemsize * math.prod(max(1, size) for size in shape)
        self._views_left -= needed
        if self._views_left < 0:
            raise MalformedError(
                f"a tensor of shape {shown(shape)} in it takes {needed:,} bytes, but the file has "
                f"{self.nbytes:,}; its tensors may take {_EXPANSION} times the file's size and "
                f"{_ALLOWANCE >> 20} MiB"
            )


class Values(Protocol):
    """The part of a pickle's interpretation that makers of values use."""

    @property
    def limits(self) -> Limits:
        """The limits on what the pickles of the file may claim."""

    def call(self, function: object, arguments: object) -> object:
        """Return the value of another call, without making the call."""

    def nested_storage(self, content: object) -> object:
        """Return the storage that was pickled together with its bytes."""


class Storage(Unfinished):
    """A tensor's storage, whose bytes are elsewhere in the file.

    Attributes:
        data: the bytes, filled when the pickle has been checked.
        dtype: the type of its elements; None if each tensor states its own.
        start: the offset of this view's first byte.
    """

    def __init__(self, data: UntypedStorage, dtype: torch.dtype | None, start: int = 0) -> None:
        self.data = data
        self.dtype = dtype
        self.start = start

    def finish(self) -> object:
        """Return an opaque value, because a storage without a tensor is of no use."""
        return Opaque("a storage")


class ArrayType:
    """A NumPy dtype of a plain kind, as described by the pickle so far."""

    def __init__(self, text: str) -> None:
        self._text = text.lstrip("<>|=")
        self._order = text[0] if text[0] in "<>" else "="

    def describe(self, state: object) -> None:
        """Take over the byte order, and refuse fields, subarrays and Python objects."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in set("<>|="):
            raise MalformedError("a NumPy type in it is damaged")
        if state[2:5] != (None, None, None):
            raise NeedsCodeError("it holds a NumPy array with fields")
        self._order = "=" if state[1] == "|" else state[1]

    @property
    def plain(self) -> np.dtype[Any] | None:
        """Return the dtype of the numbers; None for text, dates and types this machine lacks."""
        if self._text[0] in "SUMm":
            return None
        try:
            return np.dtype(self._order + self._text)
        except TypeError:
            return None


class Array(Unfinished):
    """A NumPy array that is described in one step and filled in another."""

    def __init__(self) -> None:
        self._type: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] = ()
        self._order: Any = "C"
        self._content: object = b""
        self._value: object = None

    def describe(self, kind: np.dtype[Any] | None, shape: tuple[int, ...], order: str) -> None:
        """Set the array's type, shape and order; a type of None means that it holds no numbers."""
        self._type, self._shape, self._order = kind, shape, order

    def fill(self, content: object) -> None:
        """Set the array's content."""
        self._content = content

    def finish(self) -> object:
        """Return the array in memory of its own, or an opaque value for text and dates."""
        if self._value is None:
            self._value = self._made() if self._type else Opaque("a NumPy array without numbers")
        return self._value

    def _made(self) -> NDArray[Any]:
        assert self._type is not None  # noqa: S101 - for the type checker
        flat = np.empty(math.prod(self._shape), self._type)
        copy_into(self._content, flat.view(np.uint8).data)
        native = flat.astype(self._type.newbyteorder("="), copy=False)
        return native.reshape(self._shape, order=self._order)


class Deferred(Unfinished):
    """A tensor that is made as soon as its parts have their data."""

    def __init__(self, make: Callable[[], Tensor], otherwise: str) -> None:
        self._make = make
        self._otherwise = otherwise
        self._value: object = None

    def finish(self) -> object:
        """Return the tensor, or an opaque value if its parts are not sound."""
        if self._value is None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # warnings that a layout is new
                    self._value = self._make()
            except (RuntimeError, TypeError, ValueError):
                self._value = Opaque(self._otherwise, tensor=True)
        return self._value


def fill_array(
    limits: Limits, array: Array, kind: object, shape: object, order: str, content: object
) -> None:
    """Set an array's type and data, of the size that the shape says."""
    if isinstance(content, list) or not isinstance(kind, ArrayType):
        raise NeedsCodeError("it holds a NumPy array of Python objects")
    plain, sizes = kind.plain, sizes_of(shape)
    if plain is not None:
        limits.claim_data(math.prod(max(1, size) for size in sizes) * plain.itemsize)
    array.describe(plain, sizes, order)
    array.fill(content)


def sizes_of(value: object) -> tuple[int, ...]:
    """Read a shape or strides: whole numbers that are not negative."""
    if (
        not isinstance(value, (tuple, list))
        or len(value) > _MOST_DIMENSIONS
        or not all(type(size) is int and 0 <= size < 1 << 63 for size in value)
    ):
        raise MalformedError("the shape of a tensor in it is damaged")
    return tuple(value)


def copy_into(content: object, target: memoryview) -> None:
    """Copy data from a pickle into the target.

    Raises:
        MalformedError: the data's size is not the target's.
    """
    if isinstance(content, Blob) and content.kind != "text":
        try:
            content.read_into(target)
        except UnicodeError as error:
            raise MalformedError("the data of a NumPy array in it are damaged") from error
        return
    if isinstance(content, ByteText):
        content = content.raw
    if not isinstance(content, (bytes, bytearray)) or len(content) != len(target):
        raise MalformedError("a NumPy array in it has other data than its shape says")
    target[:] = content


def shown(shape: Sequence[int]) -> str:
    """Format a shape for a message: `64 × 3 × 7 × 7`."""
    return " × ".join(f"{size:,}" for size in shape) or "()"


def require(holds: bool, what: str) -> None:
    """Raise a MalformedError that says what is wrong, unless the condition holds."""
    if not holds:
        raise MalformedError(what)
