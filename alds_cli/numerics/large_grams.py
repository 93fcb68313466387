"""Eigenvalues of Gram matrices that are too large to hold several of: one square at a time.

The square is formed tile by tile, by as many workers as are free. Each tile is formed by one
worker, so that its bits do not depend on their number. The eigenvalues are computed in the memory
of the square itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from alds_cli.numerics.eigenvalues import eigenvalues, eigenvalues_in_place
from alds_cli.numerics.grams import add_gram
from alds_cli.numerics.shared_grams import (
    Slicing,
    cut,
    diagonal_blocks,
)
from alds_cli.records import FloatArray
from alds_cli.runtime.heap import give_back
from alds_cli.runtime.pool import Spawn

LARGE = 1024
"""The side beyond which a Gram matrix is formed and solved by itself."""

_TILE = 1024
_PANEL_BYTES = 5 << 20

Store = Callable[[int, int, FloatArray], None]
"""`store(k, first, eigenvalues)` takes the (b, n) of the slices from `first` on."""


@dataclass(frozen=True, slots=True)
class LargeSlice:
    """One slice, and the finer numbers of slices whose Gram matrices are blocks of its own.

    Attributes:
        slicing: the layer.
        k: number of slices in a group.
        index: the slice's number, counted group by group.
        finer: multiples of k.
        store: receives the eigenvalues.
    """

    slicing: Slicing
    k: int
    index: int
    finer: Sequence[int]
    store: Store

    @property
    def nbytes(self) -> int:
        """Bytes of the square, and of the copy of the largest block or the panels of a tile."""
        size = self.slicing.side(self.k)
        return 8 * size * size + max(2 * _PANEL_BYTES, self._largest_copy())

    def _largest_copy(self) -> int:
        size = self.slicing.side(self.k)
        return max((8 * (size * self.k // k) ** 2 for k in self.finer), default=0)

    def __call__(self, spawn: Spawn) -> None:
        """Form the square, then compute the eigenvalues of its blocks, then its own."""
        give_back()  # memory left over from smaller slices would add to that of the square
        gram = self._formed(spawn)
        give_back()
        blocks = [task for k in self.finer for task in self._block_tasks(gram, k)]
        spawn.together(blocks, self._largest_copy())
        del blocks
        self.store(self.k, self.index, eigenvalues_in_place(gram)[None])

    def _block_tasks(self, gram: Tensor, k: int) -> Iterator[Callable[[], None]]:
        parts = k // self.k
        blocks = diagonal_blocks(gram[None], parts)
        together = max(1, _TILE // blocks.shape[-1]) ** 2
        for start in range(0, parts, together):
            yield partial(
                self._solve, k, self.index * parts + start, blocks[start : start + together]
            )

    def _solve(self, k: int, first: int, blocks: Tensor) -> None:
        self.store(k, first, eigenvalues(blocks))

    def _formed(self, spawn: Spawn) -> Tensor:
        group, index = divmod(self.index, self.k)
        piece = self.slicing.slices(self.k)[group, :, index]  # (rows, c / k, q)
        tall = self.slicing.tall(self.k)
        size = self.slicing.side(self.k)
        gram = torch.zeros(size, size, dtype=torch.float64)
        units, width = (piece.shape[1], piece.shape[2]) if tall else (size, 1)
        cuts = _cuts(units, width)
        tiles = [(at, before) for at in cuts for before in cuts if before.start <= at.start]
        # Tiles on the diagonal are half the work, so they come last.
        tiles.sort(key=lambda tile: tile[0] == tile[1])
        add = partial(self._add_tile, gram, piece, width)
        spawn.together([partial(add, *tile) for tile in tiles], 2 * _PANEL_BYTES)
        return gram

    def _add_tile(self, gram: Tensor, piece: Tensor, width: int, at: slice, before: slice) -> None:
        """Add the products of two ranges of channels of a tall piece, or of rows of a wide one."""
        tall = self.slicing.tall(self.k)
        rows, columns = (slice(units.start * width, units.stop * width) for units in (at, before))
        tile = gram[rows, columns]
        share = len(gram) // (rows.stop - rows.start)
        for part in cut(piece, _PANEL_BYTES * share, axis=0 if tall else 1):
            left = self._panel(part, at)
            if at == before:
                add_gram(tile, left, self.slicing.portions.stripe)
            else:
                tile.addmm_(left, self._panel(part, before).mT)

    def _panel(self, part: Tensor, units: slice) -> Tensor:
        if self.slicing.tall(self.k):
            return self.slicing.prepared(part[:, units]).flatten(1).mT
        return self.slicing.prepared(part[units]).flatten(1)


def _cuts(extent: int, width: int) -> list[slice]:
    """Cut `extent` units of `width` each into equal parts of at most a tile."""
    count = max(1, -(-extent * width // _TILE))
    step = -(-extent // count)
    return [slice(start, min(start + step, extent)) for start in range(0, extent, step)]
