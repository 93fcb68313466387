"""How much the slices of a layer's groups are, and what is kept of their decomposition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alds_cli.numerics.grams import CHUNK_BYTES
from alds_cli.numerics.lanczos import eigenvalue_bytes

KEEP_BYTES = 128 << 20
"""Beyond it not all scaled vectors of a group are kept."""

LEADING = 256
"""Where only leading vectors are kept, their number is a multiple of this."""

_PIECE_WORK = 1 << 28
"""Slices are decomposed together up to this sum of the cubes of their smaller sides."""


class Layout:
    """Sizes of the slices of a layer's groups, and what is kept of their decomposition.

    With B_j the columns σ_{i,l} u_{i,l} of all slices i and all l > j:

    - `values` alone: for one slice the singular values are all there is to know;
    - `corner`: B_0ᵀ B_0, whose lower right corner is B_jᵀ B_j, where the columns of the whole
      group are no more than its rows;
    - B_0 itself else, unless it is `large`. Then a coarse decomposition keeps the leading vectors,
      which B_0 B_0ᵀ is to be freed from, for ranks up to the largest known beforehand; a fine
      one, for which that would cancel too much, keeps B_j B_jᵀ for the known ranks alone.

    Args:
        shape: of the folded layer, (rows, c, q).
        k: number of slices in a group.
        groups: of the layer.
    """

    def __init__(self, shape: Sequence[int], k: int, groups: int = 1) -> None:
        rows, channels, width = shape
        self.k = k
        self.groups = groups
        self.rows = rows // groups
        self.columns = channels // k * width
        self.size = min(self.rows, self.columns)
        self.wide = self.rows <= self.columns
        self.corner = k > 1 and k * self.columns <= self.rows
        all_vectors = 8 * self.rows * k * self.size
        self.large = k > 1 and not self.corner and all_vectors > KEEP_BYTES

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of the slices that are decomposed together."""
        by_memory = CHUNK_BYTES // (8 * self.rows * self.columns)
        together = max(1, min(by_memory, _PIECE_WORK // self.size**3))
        for start in range(0, self.k, together):
            yield start, min(start + together, self.k)

    def leading(self, ranks: Sequence[int]) -> int:
        """How many vectors of each slice are kept where it is large, to serve these ranks."""
        most = max((rank for rank in ranks if rank < self.size), default=0)
        return min(self.size, -(-most // LEADING) * LEADING)

    def kept_bytes(self, ranks: Sequence[int] = (), *, fine: bool = False) -> int:
        """Bytes that stay until no more is asked; the ranks are those known beforehand."""
        each = self.k * self.size
        if self.corner:
            each += self.k * self.columns**2 * (1 + self.k)
        elif self.large and fine:
            each += self.rows**2 * len(set(ranks))
        elif self.large:
            each += self.rows**2 + self.rows * self.k * self.leading(ranks)
        elif self.k > 1:
            each += self.rows * self.k * self.size
        return 8 * self.groups * each

    def piece_bytes(self, *, fine: bool) -> int:
        """Bytes that decomposing some slices together takes beyond what is kept."""
        _, together = next(self.ranges())
        copies = (3 if self.k == 1 else 6) + (2 if fine else 0)
        own = together * self.size**2 * copies
        if self.large:
            own += 2 * together * self.rows * self.size
        longer = max(self.rows, self.columns)
        return 8 * own + 3 * max(min(CHUNK_BYTES, 8 * longer * self.size), 8 * self.size)

    def finish_bytes(self) -> int:
        """Bytes that finishing takes: scaled vectors, some rows at a time."""
        return 3 * CHUNK_BYTES if self.corner else 0

    def error_bytes(self) -> int:
        """Bytes that the error of one rank takes: a Gram matrix, and what its norm takes."""
        side = min(self.rows, self.k * self.size)
        return 0 if self.k == 1 else 8 * side**2 + eigenvalue_bytes(side)
