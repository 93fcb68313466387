"""The masks of SBD, which lie in MATLAB files as `GTcls.Segmentation`.

SciPy reads such files too, but a damaged one can crash it, and with it the whole process.

Source: MathWorks, MAT-File Format, the chapter on level 5 files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alds_cli.checkpoint.files import require_regular
from alds_cli.errors import DataError

_MOST_BYTES = 2**26
"""The most bytes that a file may have, packed or not; those of SBD have some thousands."""

_HEADER = 128

_MATRIX, _COMPRESSED = 14, 15

_STRUCTURE = 2
"""The class of a structure; those from 6 to 15 are numbers."""

_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""How numbers are stored, by the type of an element."""


def read_sbd_mask(path: Path) -> Tensor:
    """Read a mask, uint8 of shape (H, W).

    Raises:
        DataError: the file is not one of SBD, or is damaged.
    """
    require_regular(path, DataError, most=_MOST_BYTES)
    try:
        return torch.from_numpy(_segmentation(path.read_bytes()))
    except (ValueError, struct.error, zlib.error, OSError, OverflowError) as error:
        raise DataError(
            f"{path} is not a mask of SBD: {error}",
            tip="fetch the file again, or remove the image from the list",
        ) from error


def _segmentation(content: bytes) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError("it is no MATLAB file of level 5")
    for stored in _elements(content[_HEADER:], order):
        kind, data = stored
        if kind == _COMPRESSED:
            kind, data = next(_elements(_unpacked(data), order), (0, b""))
        if kind == _MATRIX and (found := _Array.of(data, order)).name == "GTcls":
            return found.field("Segmentation").mask()
    raise ValueError("it holds no 'GTcls'")


def _unpacked(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(packed, _MOST_BYTES)
    if not stream.eof:
        raise ValueError("its content is cut short, or far too large")
    return content


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each element.

    Raises:
        ValueError: one is longer than what is left.
    """
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start, step = at + 8, at + 8 + size
        if kind >> 16:  # up to four bytes stand in the place of the size
            kind, size = kind & 0xFFFF, kind >> 16
            start, step = at + 4, at + 8
            if size > 4:
                raise ValueError("a short element has more than four bytes")
        elif kind != _COMPRESSED:
            step += -size % 8
        if start + size > len(content):
            raise ValueError("it ends within an element")
        yield kind, content[start : start + size]
        at = step


@dataclass(frozen=True, slots=True)
class _Array:
    """An array: its class, shape and name, the elements that follow, and the order of bytes."""

    kind: int
    shape: tuple[int, ...]
    name: str
    rest: list[tuple[int, bytes]]
    order: str

    @classmethod
    def of(cls, content: bytes, order: str) -> _Array:
        """Read an array.

        Raises:
            ValueError: it is damaged.
        """
        parts = list(_elements(content, order))
        if len(parts) < 3:
            raise ValueError("an array lacks its name")
        (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
        shape = np.frombuffer(parts[1][1], f"{order}i4")
        return cls(
            flags & 0xFF, tuple(shape.tolist()), parts[2][1].decode("latin-1"), parts[3:], order
        )

    def field(self, name: str) -> _Array:
        """Return a field of a structure that stands alone.

        Raises:
            ValueError: there is none.
        """
        if self.kind != _STRUCTURE or set(self.shape) != {1} or len(self.rest) < 2:
            raise ValueError(f"'{self.name}' is no structure")
        (length,) = struct.unpack_from(f"{self.order}i", self.rest[0][1])
        names = self.rest[1][1]
        if length < 1:
            raise ValueError("its fields have no names")
        starts = range(0, len(names), length)
        listed = [names[at : at + length].partition(b"\0")[0].decode("latin-1") for at in starts]
        for own, (kind, content) in zip(listed, self.rest[2:], strict=False):
            if own == name and kind == _MATRIX:
                return _Array.of(content, self.order)
        raise ValueError(f"'{self.name}' has no field '{name}'")

    def mask(self) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """Return the array as classes of pixels, uint8 (H, W).

        Raises:
            ValueError: it is none.
        """
        if len(self.shape) != 2 or not self.rest or self.rest[0][0] not in _NUMBERS:
            raise ValueError("its 'Segmentation' is no image of class numbers")
        kind, content = self.rest[0]
        values = np.frombuffer(content, f"{self.order}{_NUMBERS[kind]}")
        height, width = self.shape
        if min(height, width) < 1 or height * width != len(values):
            raise ValueError(f"its 'Segmentation' has {len(values)} numbers for {height} × {width}")
        if not ((values >= 0) & (values <= 255) & (values % 1 == 0)).all():
            raise ValueError("its 'Segmentation' has numbers that are no classes")
        mask = values.astype(np.uint8).reshape((height, width), order="F")
        return np.ascontiguousarray(mask)
