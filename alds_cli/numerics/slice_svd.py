"""Singular values and vectors of the slices of one group, kept so that they serve every rank.

With M_i = U_i Σ_i V_iᵀ the singular value decomposition of slice i, and M̂ the best rank-j
approximation of every slice, the difference M − M̂ is [U_i Σ_i V_iᵀ] over the singular values beyond
the j-th. The V_i have orthonormal columns and stand side by side, so its norm is that of

    B_j = [σ_{i,l} u_{i,l}]  over all slices i and all l > j.

One decomposition per slice therefore serves every rank: B_j is the end of B_{j-1}, which is why the
error falls with j. The norm is the root of the largest eigenvalue of the smaller of B_j B_jᵀ and
B_jᵀ B_j; for k = 1 it is σ_{j+1}. `Layout` determines how much is kept, and in which form. The
decomposition is computed in pieces that any threads may run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ldexp, sqrt

import numpy as np
import torch
from torch import Tensor

from alds_cli.numerics.eigenvalues import eigenvalue_bytes, largest_eigenvalue
from alds_cli.numerics.grams import (
    CHUNK_BYTES,
    add_gram,
    even_exponent,
    mirrored,
    slice_blocks,
    slice_grams,
)
from alds_cli.records import FloatArray

_STRIPE = 128
"""Rows of a product X Xᵀ that are multiplied together, up to the diagonal only."""

Piece = tuple[Callable[[], None], int]
"""A piece of work, and the bytes of working memory that it takes."""


class GroupDecomposition:
    """The decomposed slices of one group, of 2**-exponent times the matrix.

    Args:
        matrix: (rows, c, q) of the group. It is not kept: every piece holds it until it is run.
        layout: the layout of the layer.
        ranks: the ranks whose errors will be needed; relevant only for `layout.large`.
        fine: whether to decompose triangular factors, with errors of about 1e-15 σ_1, instead of
            Gram matrices, with errors of about 1e-15 σ_1² in the squares.
    """

    def __init__(self, matrix: Tensor, layout: Layout, ranks: Sequence[int], *, fine: bool) -> None:
        self._layout = layout
        self._fine = fine
        self._exponent = even_exponent(matrix)
        k, rows, size = layout.k, layout.rows, layout.size
        self._values = np.zeros((k, size))
        # See `Layout`; the bases are those of the slices, until `finish`.
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
        """Return the work to do first, in any order and on any threads."""
        nbytes = self._layout.piece_bytes(fine=self._fine)
        if self._layout.large and self._fine:  # the sums depend on the order of their terms
            return [(partial(self._solve_all, matrix), nbytes)]
        pieces: list[Piece] = [
            (partial(self._solve, matrix, start, stop), nbytes)
            for start, stop in self._layout.ranges()
        ]
        if self._layout.large:
            pieces.append((partial(self._sum_all, matrix), 3 * CHUNK_BYTES))
        return pieces

    def serves(self, j: int) -> bool:
        """Return whether the error of rank j is available."""
        if not self._layout.large:
            return True
        return j in self._sums if self._fine else j <= len(self._vectors)

    def finish(self, matrix: Tensor) -> None:
        """Complete the decomposition once all pieces are done."""
        layout = self._layout
        if not layout.corner:
            return
        count = layout.k * layout.size
        self._gram_of_all = torch.zeros(count, count, dtype=torch.float64)
        for _, block in slice_blocks(matrix, layout.k, 0, layout.k, self._exponent):
            scaled = (block @ self._bases).permute(2, 0, 1).reshape(count, -1)
            add_gram(self._gram_of_all, scaled, _STRIPE)
        mirrored(self._gram_of_all)
        self._bases = torch.empty(0)

    def largest(self) -> FloatArray:
        """Return the largest σ_{i,j+1} of all slices i for every rank j below full: (size,)."""
        return np.asarray(np.ldexp(self._values.max(axis=0), self._exponent))

    def bound(self, j: int) -> float:
        """Return sqrt(Σ_i σ²_{i,j+1}), an upper bound on the error."""
        return ldexp(sqrt(float(np.square(self._values[:, j]).sum())), self._exponent)

    def error(self, j: int) -> float:
        """Return ‖M − M̂_j‖₂ for a rank below full."""
        if self._layout.k == 1:  # a single value
            return self.bound(j)
        return ldexp(sqrt(largest_eigenvalue(self._gram(j))), self._exponent)

    def _gram(self, j: int) -> Tensor:
        """Return the smaller of B_j B_jᵀ and B_jᵀ B_j, as far as there is a choice."""
        if self._layout.corner:
            return self._gram_of_all[j * self._layout.k :, j * self._layout.k :].contiguous()
        if j in self._sums:
            return mirrored(self._sums[j])
        if self._layout.large:
            gram = self._gram_of_all.clone()
            leading = self._vectors[:j].flatten(0, 1).T
            return mirrored(add_gram(gram, leading, _STRIPE, sign=-1))
        columns = self._vectors[j:].flatten(0, 1)
        factor = columns if columns.shape[0] < columns.shape[1] else columns.T
        gram = torch.zeros(len(factor), len(factor), dtype=torch.float64)
        return mirrored(add_gram(gram, factor, _STRIPE))

    def _sum_all(self, matrix: Tensor) -> None:
        """Compute B_0 B_0ᵀ, which is the group's M Mᵀ; it has fewer rows than columns."""
        rows = self._layout.rows
        self._gram_of_all = torch.zeros(rows, rows, dtype=torch.float64)
        for _, block in slice_blocks(matrix, 1, 0, 1, self._exponent):
            add_gram(self._gram_of_all, block[0], _STRIPE)

    def _solve_all(self, matrix: Tensor) -> None:
        for start, stop in self._layout.ranges():
            self._solve(matrix, start, stop)

    def _solve(self, matrix: Tensor, start: int, stop: int) -> None:
        """Decompose slices start … stop - 1 and keep what the layout requires."""
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
                add_gram(total, scaled[rank:].flatten(0, 1).T, _STRIPE)
        else:
            self._scale(matrix, start, stop, values, bases, self._vectors[:, start:stop])

    def _singular_values(self, matrix: Tensor) -> FloatArray:
        """Return the singular values (1, size) of the group as one slice, largest first."""
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
        # Always as many columns at a time: the rounding of a product may depend on their number.
        for part, block in slice_blocks(matrix, self._layout.k, start, stop, self._exponent):
            for first in range(0, len(out), LEADING):
                leading = bases[:, :, first : first + LEADING]
                out[first : first + LEADING, :, part] = (block @ leading).permute(2, 0, 1)


def coarse_bases(
    matrix: Tensor, k: int, start: int, stop: int, exponent: int
) -> tuple[Tensor, Tensor]:
    """Return values (b, n) and bases (b, n, n) of slices, from their Gram matrices.

    The bases are the singular vectors on the smaller side: the left ones of a slice no higher than
    wide, else the right ones. Squares of the values, largest first, are accurate to about
    1e-15 σ_1². The arguments are those of `grams.slice_grams`.
    """
    squares, vectors = torch.linalg.eigh(slice_grams(matrix, k, start, stop, exponent))
    return squares.flip(-1).clamp_(min=0).sqrt_(), vectors.flip(-1)


def fine_bases(
    matrix: Tensor, k: int, start: int, stop: int, exponent: int
) -> tuple[Tensor, Tensor]:
    """Return the same as `coarse_bases`, from triangular factors and so without forming squares.

    Values are accurate to about 1e-15 σ_1.
    """
    found = [
        torch.linalg.svd(triangular_factor(matrix, k, index, exponent))
        for index in range(start, stop)
    ]
    return torch.stack([sigma for _, sigma, _ in found]), torch.stack([vh.mT for *_, vh in found])


def triangular_factor(matrix: Tensor, k: int, index: int, exponent: int) -> Tensor:
    """Return R (n, n) such that Rᵀ R is the smaller Gram matrix of one slice, without forming that.

    It is the R of a QR decomposition of the slice, stood upright, computed block by block.
    """
    rows, channels, width = matrix.shape
    columns = channels // k * width
    factor = torch.empty(0, min(rows, columns), dtype=torch.float64)
    for _, block in slice_blocks(matrix, k, index, index + 1, exponent):
        upright = block[0].mT if rows <= columns else block[0]
        _, factor = torch.linalg.qr(torch.cat([factor, upright]), mode="r")
    return factor


KEEP_BYTES = 128 << 20
"""The bytes beyond which not all scaled vectors of a group are kept."""

LEADING = 256
"""The number of leading vectors that are kept is a multiple of this."""

_PIECE_WORK = 1 << 28
"""The sum of the cubes of their smaller sides up to which slices are decomposed together."""


class Layout:
    """Sizes of the slices of a layer's groups, and the parts of their decomposition to keep.

    With B_j the columns σ_{i,l} u_{i,l} of all slices i and all l > j, these are:

    - for one slice, the singular values alone;
    - for a `corner`, where the columns of the whole group are no more than its rows: B_0ᵀ B_0,
      whose lower right corner is B_jᵀ B_j;
    - otherwise B_0 itself, unless it is `large`. Then a coarse decomposition keeps B_0 B_0ᵀ and the
      leading vectors, which are subtracted from it, for ranks up to the largest known beforehand. A
      fine one, for which that would cancel too much, keeps B_j B_jᵀ for the known ranks alone.

    Args:
        shape: the shape of the folded layer, (rows, c, q).
        k: number of slices in a group.
        groups: the groups of the layer.
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
        """Yield (start, stop) of the slices that are decomposed together."""
        by_memory = CHUNK_BYTES // (8 * self.rows * self.columns)
        together = max(1, min(by_memory, _PIECE_WORK // self.size**3))
        for start in range(0, self.k, together):
            yield start, min(start + together, self.k)

    def leading(self, ranks: Sequence[int]) -> int:
        """Return how many vectors of each slice are kept to serve these ranks, if it is large."""
        most = max((rank for rank in ranks if rank < self.size), default=0)
        return min(self.size, -(-most // LEADING) * LEADING)

    def kept_bytes(self, ranks: Sequence[int] = (), *, fine: bool = False) -> int:
        """Return the bytes that are kept, given the ranks that are known beforehand."""
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
        """Return the bytes that decomposing some slices together takes beside those kept."""
        _, together = next(self.ranges())
        copies = (3 if self.k == 1 else 6) + (2 if fine else 0)
        entries = together * self.size**2 * copies
        if self.large:
            entries += 2 * together * self.rows * self.size
        longer = max(self.rows, self.columns)
        return 8 * entries + 3 * max(min(CHUNK_BYTES, 8 * longer * self.size), 8 * self.size)

    def finish_bytes(self) -> int:
        """Return the bytes that finishing takes: scaled vectors, some rows at a time."""
        return 3 * CHUNK_BYTES if self.corner else 0

    def error_bytes(self) -> int:
        """Return the bytes that the error of one rank takes: a Gram matrix and its norm."""
        side = min(self.rows, self.k * self.size)
        return 0 if self.k == 1 else 8 * side**2 + eigenvalue_bytes(side)
