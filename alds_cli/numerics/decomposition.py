"""Singular values and vectors of the slices of one group, kept so that every rank can use them.

`layout` says how much that is and which form it takes. It is computed in pieces that any threads
may run, and gives the norm of what any rank leaves (`exactness` tells why that is a norm of
scaled singular vectors).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import ldexp, sqrt

import numpy as np
import torch
from torch import Tensor

from alds_cli.numerics.bases import coarse_bases, fine_bases, triangular_factor
from alds_cli.numerics.grams import CHUNK_BYTES, mirrored, slice_blocks, slice_grams
from alds_cli.numerics.lanczos import largest_eigenvalue
from alds_cli.numerics.layout import LEADING, Layout
from alds_cli.numerics.scaling import even_exponent
from alds_cli.records import FloatArray

_STRIPE = 128
"""Rows of a product X Xᵀ that are multiplied together, up to the diagonal only."""

Piece = tuple[Callable[[], None], int]
"""Something to be done, and the bytes of working memory that it takes."""


class GroupDecomposition:
    """The slices of one group: 2**-exponent times which are decomposed.

    Args:
        matrix: (rows, c, q) of the group. Not kept: every piece holds it until it is run.
        layout: of the layer.
        fine: from triangular factors, with errors of about 1e-15 σ_1, instead of from Gram
            matrices, with errors of about 1e-15 σ_1² in the squares.
        ranks: that errors will be asked of; of no matter unless `layout.large`.
    """

    def __init__(self, matrix: Tensor, layout: Layout, ranks: Sequence[int], *, fine: bool) -> None:
        self._layout = layout
        self._fine = fine
        self._exponent = even_exponent(matrix)
        k, rows, size = layout.k, layout.rows, layout.size
        self._values = np.zeros((k, size))
        # What `Layout` says; the bases are those of the slices, until `finish`.
        self._bases = torch.empty(0)
        self._gram_of_all = torch.empty(0)
        self._vectors = torch.empty(0)
        self._sums: dict[int, Tensor] = {}
        if layout.corner:
            self._bases = torch.empty(k, size, size, dtype=torch.float64)
        elif layout.large and fine:
            known = {rank for rank in ranks if rank < size}
            self._sums = {rank: torch.zeros(rows, rows, dtype=torch.float64) for rank in known}
        elif k > 1:
            count = layout.leading(ranks) if layout.large else size
            self._vectors = torch.empty(count, k, rows, dtype=torch.float64)

    def pieces(self, matrix: Tensor) -> list[Piece]:
        """What is to be done first, in any order and on any threads."""
        nbytes = self._layout.piece_bytes(fine=self._fine)
        if self._layout.large and self._fine:  # sums depend on their order
            return [(partial(self._solve_all, matrix), nbytes)]
        pieces: list[Piece] = [
            (partial(self._solve, matrix, start, stop), nbytes)
            for start, stop in self._layout.ranges()
        ]
        if self._layout.large:
            pieces.append((partial(self._sum_all, matrix), 3 * CHUNK_BYTES))
        return pieces

    def serves(self, j: int) -> bool:
        """Whether the error of rank j can be asked."""
        if not self._layout.large:
            return True
        return j in self._sums if self._fine else j <= len(self._vectors)

    def finish(self, matrix: Tensor) -> None:
        """What remains when all pieces are done."""
        layout = self._layout
        if not layout.corner:
            return
        count = layout.k * layout.size
        self._gram_of_all = torch.zeros(count, count, dtype=torch.float64)
        for _, block in slice_blocks(matrix, layout.k, 0, layout.k, self._exponent):
            scaled = (block @ self._bases).permute(2, 0, 1).reshape(count, -1)
            _add_gram(self._gram_of_all, scaled)
        mirrored(self._gram_of_all)
        self._bases = torch.empty(0)

    def largest(self) -> FloatArray:
        """The largest of the slices' σ_{j+1} for every rank j below full: (size,)."""
        return np.asarray(np.ldexp(self._values.max(axis=0), self._exponent))

    def bound(self, j: int) -> float:
        """sqrt(Σ_i σ²_{i,j+1}), at least the error."""
        return ldexp(sqrt(float(np.square(self._values[:, j]).sum())), self._exponent)

    def error(self, j: int) -> float:
        """‖M − M̂_j‖₂ for a rank below full."""
        if self._layout.k == 1:  # a single value
            return self.bound(j)
        return ldexp(sqrt(largest_eigenvalue(self._gram(j))), self._exponent)

    def _gram(self, j: int) -> Tensor:
        """The smaller of B_j B_jᵀ and B_jᵀ B_j, as far as there is a choice."""
        if self._layout.corner:
            return self._gram_of_all[j * self._layout.k :, j * self._layout.k :].contiguous()
        if j in self._sums:
            return mirrored(self._sums[j])
        if self._layout.large:
            gram = self._gram_of_all.clone()
            return mirrored(_add_gram(gram, self._vectors[:j].flatten(0, 1).T, sign=-1))
        columns = self._vectors[j:].flatten(0, 1)
        factor = columns if columns.shape[0] < columns.shape[1] else columns.T
        gram = torch.zeros(len(factor), len(factor), dtype=torch.float64)
        return mirrored(_add_gram(gram, factor))

    def _sum_all(self, matrix: Tensor) -> None:
        """B_0 B_0ᵀ, which is the group's M Mᵀ; its rows are fewer than its columns."""
        rows = self._layout.rows
        self._gram_of_all = torch.zeros(rows, rows, dtype=torch.float64)
        for _, block in slice_blocks(matrix, 1, 0, 1, self._exponent):
            _add_gram(self._gram_of_all, block[0])

    def _solve_all(self, matrix: Tensor) -> None:
        for start, stop in self._layout.ranges():
            self._solve(matrix, start, stop)

    def _solve(self, matrix: Tensor, start: int, stop: int) -> None:
        """Decompose slices start … stop - 1 and keep what the layout says."""
        layout = self._layout
        if layout.k == 1:
            self._values[:] = self._singular_values(matrix)
            return
        decompose = fine_bases if self._fine else coarse_bases
        values, bases = decompose(matrix, layout.k, start, stop, self._exponent)
        self._values[start:stop] = values.numpy()
        if layout.corner:
            self._bases[start:stop] = bases
        elif layout.large and self._fine:
            scaled = torch.empty(layout.size, stop - start, layout.rows, dtype=torch.float64)
            self._scale(matrix, start, stop, values, bases, scaled)
            for rank, total in self._sums.items():
                _add_gram(total, scaled[rank:].flatten(0, 1).T)
        else:
            self._scale(matrix, start, stop, values, bases, self._vectors[:, start:stop])

    def _singular_values(self, matrix: Tensor) -> FloatArray:
        """(1, size) of the group as one slice, largest first."""
        if self._fine:
            factor = triangular_factor(matrix, 1, 0, self._exponent)
            return np.asarray(torch.linalg.svdvals(factor)[None].numpy())
        grams = slice_grams(matrix, 1, 0, 1, self._exponent)
        return np.asarray(torch.linalg.eigvalsh(grams).flip(-1).clamp_(min=0).sqrt_().numpy())

    def _scale(
        self, matrix: Tensor, start: int, stop: int, values: Tensor, bases: Tensor, out: Tensor
    ) -> None:
        """Write the leading σ_{i,l} u_{i,l} to `out` (count, stop - start, rows)."""
        if self._layout.wide:  # the bases are the u
            out.copy_((bases * values[:, None, :])[:, :, : len(out)].permute(2, 0, 1))
            return
        # Always the same columns at a time: what a product rounds to may depend on their number.
        for part, block in slice_blocks(matrix, self._layout.k, start, stop, self._exponent):
            for first in range(0, len(out), LEADING):
                own = bases[:, :, first : first + LEADING]
                out[first : first + LEADING, :, part] = (block @ own).permute(2, 0, 1)


def _add_gram(total: Tensor, factor: Tensor, sign: int = 1) -> Tensor:
    """Add ± X Xᵀ to (n, n), in place: the lower triangle and little more."""
    size = len(factor)
    for first in range(0, size, _STRIPE):
        last = min(first + _STRIPE, size)
        total[first:last, :last].addmm_(factor[first:last], factor[:last].mT, alpha=sign)
    return total
