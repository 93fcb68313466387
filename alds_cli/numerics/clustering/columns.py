"""The columns of a folded matrix as points, in float64 and within a bound on memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from alds_cli.numerics.grams import CHUNK_BYTES, even_exponent, scaled

_COPIED = 64 << 20
"""The most bytes of a matrix that is converted to float64 at once, not a chunk at a time."""


class Columns:
    """The columns of 2**-`exponent` times a matrix, as points of a space of `size` dimensions.

    Projective clustering needs only inner products of points. A matrix M that is higher than wide
    is therefore replaced by R of M = Q R, whose columns have the same inner products in fewer
    dimensions; `lifted` leads back.
    """

    def __init__(self, matrix: Tensor) -> None:
        """Take a matrix (rows, columns) of any floating dtype; it may be kept, but not changed."""
        rows, count = matrix.shape
        self.count = count
        self.size = min(rows, count)
        self.exponent = even_exponent(matrix)
        self._basis: Tensor | None = None
        self._scaled = False
        self._matrix = matrix
        if rows > count or 8 * rows * count <= _COPIED:
            self._matrix = self._prepared(matrix)
            self._scaled = True
        if rows > count:
            self._basis, self._matrix = torch.linalg.qr(self._matrix)
        self.squares = torch.empty(count, dtype=torch.float64)
        for part, block in self.blocks():
            self.squares[part] = block.square().sum(0)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield all columns in order: ranges, and blocks (size, b) that must not be changed."""
        together = self._together()
        for first in range(0, self.count, together):
            part = slice(first, min(first + together, self.count))
            yield part, self._prepared(self._matrix[:, part])

    def gathered(self, index: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the columns with these numbers (n,): ranges of `index`, and blocks (size, b)."""
        together = self._together()
        for first in range(0, len(index), together):
            part = slice(first, min(first + together, len(index)))
            yield part, self._prepared(self._matrix[:, index[part]])

    def lifted(self, vectors: Tensor) -> Tensor:
        """Return vectors (size, n) as vectors (rows, n) of the matrix's own space."""
        return vectors if self._basis is None else self._basis @ vectors

    def _together(self) -> int:
        return max(1, CHUNK_BYTES // (8 * self.size))

    def _prepared(self, block: Tensor) -> Tensor:
        if self._scaled:
            return block
        return scaled(block, self.exponent)


def columns_bytes(rows: int, columns: int) -> int:
    """Return the approximate bytes that a `Columns` holds, and that reading through it takes."""
    whole = 8 * rows * columns
    held = 3 * whole if rows > columns else whole if whole <= _COPIED else 0
    return held + 3 * CHUNK_BYTES
