"""‖M − M̂‖₂ itself, for M̂ the best rank-j approximation of every slice.

With M_i = U_i Σ_i V_iᵀ the singular value decomposition of slice i, the difference is
[U_i Σ_i V_iᵀ] over the singular values beyond the j-th. The V_i have orthonormal columns and
stand beside each other, so its norm is that of

    B_j = [σ_{i,l} u_{i,l}]  over all slices i and all l > j.

One decomposition per slice therefore serves every rank: what belongs to j is the end of what
belongs to j - 1, which is why the error falls with j. It is the root of the largest eigenvalue
of the smaller of B_j B_jᵀ and B_jᵀ B_j; for k = 1 it is σ_{j+1}.

Where σ_{i,j} = σ_{i,j+1} there are several best approximations, and the errors of several slices
together may differ between them: the value is that of one of them.

Bounds that cost nothing (`error_interval`): a slice is a submatrix, and a pair with k slices of
rank j has rank k·j at most, so the error is at least max_i σ_{i,j+1} and σ_{kj+1}(M); the blocks
of different slices add up to at most sqrt(Σ_i σ_{i,j+1}²) (Liebenwein et al., NeurIPS 2021,
Theorem 1, whose √k·max_i σ_{i,j+1} is no less).

Accuracy: the decompositions come from eigenvectors of Gram matrices, whose rounding is relative
to σ_1². Errors below `_FINE` of σ_1 would suffer, so they come from triangular factors of the
slices and their singular vectors instead, at about three times the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from torch import Tensor

from alds_cli.numerics.decomposition import GroupDecomposition, Piece
from alds_cli.numerics.layout import Layout
from alds_cli.records import Curve, FloatArray

_FINE = 2.0**-8
"""Largest next singular value, relative to σ_1, below which Gram matrices are too coarse:
their rounding, some 1e-15 σ_1², is then beyond 1e-10 of the square of the error."""


def exact_errors(matrix: Tensor, k: int, ranks: Sequence[int], groups: int = 1) -> FloatArray:
    """‖M − M̂_j‖₂ for every rank j, to 1e-9 of itself and 1e-14 σ_1 (float64).

    Repeatable to the bit given one BLAS thread, and the same whichever other ranks are asked.

    Args:
        matrix: (rows, c, q) as `fold.fold` gives it, of any floating dtype, the rows group by
            group.
        k: number of slices in a group, a divisor of c.
        ranks: each at least 0; from full rank on the error is 0.
        groups: of the layer, a divisor of the rows.

    Returns:
        (len(ranks),), not relative to anything.
    """
    coarse = Decomposition(matrix, k, groups, ranks=ranks)
    coarse.run()
    small = {j for j in ranks if coarse.too_coarse(j)}
    fine = coarse
    if small:
        fine = Decomposition(matrix, k, groups, ranks=sorted(small), fine=True)
        fine.run()
    return np.array([(fine if j in small else coarse).error(j) for j in ranks], dtype=np.float64)


def working_bytes(
    shape: Sequence[int], k: int, ranks: Sequence[int], groups: int = 1, *, fine: bool = False
) -> int:
    """Bytes that `Decomposition.run` and one `error` after it take, what is kept included.

    Args:
        shape: of the matrix, (rows, c, q).
        k: number of slices in a group.
        ranks: that are known beforehand.
        groups: of the layer.
        fine: whether from triangular factors.
    """
    layout = Layout(shape, k, groups)
    once = max(layout.piece_bytes(fine=fine), layout.finish_bytes(), layout.error_bytes())
    return layout.kept_bytes(ranks, fine=fine) + once


def error_interval(
    curve: Curve, whole: Curve, k: int, j: int, terms: int, solved: float = 0.0
) -> tuple[float, float]:
    """Proven bounds of the exact error of (k, j), from the curves of the table alone.

    Args:
        curve: of the (scheme, k) concerned.
        whole: of the same scheme for k = 1.
        k: number of slices.
        j: rank in each of them.
        terms: rows + columns of a group's matrix, and
        solved: what the curves were made with (`curves.curve_of`).

    Returns:
        (max(largest, σ_{kj+1}), sqrt(sum_squares)), the former less twice what the curves were
        raised by to stay above the singular values.
    """
    below = max(float(curve.largest[j]), float(whole.largest[min(k * j, len(whole.largest) - 1)]))
    raised = 8 * sqrt(terms) * 2.0**-53 * float(curve.tail_energy[0])
    raised += solved * float(whole.largest[0]) ** 2
    return sqrt(max(below**2 - 2 * raised, 0.0)), sqrt(float(curve.sum_squares[j]))


class Decomposition:
    """All slices of a layer for one k, decomposed: the exact error of any rank.

    Errors may be asked once all `pieces` have been run, and then `finish`.

    Args:
        matrix: (rows, c, q), the rows group by group; let go of by `finish`.
        k: number of slices in a group.
        groups: of the layer.
        ranks: that errors will be asked of; of no matter unless `Layout.large`.
        fine: from triangular factors instead of Gram matrices.

    Attributes:
        nbytes: what stays in memory.
    """

    def __init__(
        self,
        matrix: Tensor,
        k: int,
        groups: int = 1,
        *,
        ranks: Sequence[int] = (),
        fine: bool = False,
    ) -> None:
        self.layout = Layout(matrix.shape, k, groups)
        self.nbytes = self.layout.kept_bytes(ranks, fine=fine)
        self._matrices = list(matrix.chunk(groups))
        self._groups = [
            GroupDecomposition(part, self.layout, ranks, fine=fine) for part in self._matrices
        ]

    def pieces(self) -> list[Piece]:
        """What is to be done before anything is asked, in any order and on any threads."""
        pairs = zip(self._groups, self._matrices, strict=True)
        return [piece for group, matrix in pairs for piece in group.pieces(matrix)]

    def finish(self) -> None:
        """What needs all pieces."""
        for group, matrix in zip(self._groups, self._matrices, strict=True):
            group.finish(matrix)
        self._matrices = []

    def run(self) -> None:
        """All of it, on this thread."""
        for task, _ in self.pieces():
            task()
        self.finish()

    def coarse_from(self) -> int:
        """The least rank, full rank at most, whose error a coarse decomposition cannot tell."""
        largest = np.max([group.largest() for group in self._groups], axis=0)
        # At most σ_1 of the whole, where its squares are what others are taken from.
        norm = largest[0] * (sqrt(self.layout.k) if self.layout.large else 1.0)
        return int(np.count_nonzero(largest >= _FINE * norm)) if norm > 0 else self.layout.size

    def too_coarse(self, j: int) -> bool:
        """Whether rank j needs a fine decomposition; of a coarse one."""
        return self.coarse_from() <= j < self.layout.size

    def serves(self, ranks: Sequence[int]) -> bool:
        """Whether the errors of these ranks can be asked: of large layers only of some."""
        below = [j for j in ranks if j < self.layout.size]
        return all(group.serves(j) for group in self._groups for j in below)

    def error(self, j: int) -> float:
        """‖M − M̂_j‖₂, the largest of the groups'."""
        if j >= self.layout.size:
            return 0.0
        largest = 0.0
        # A group whose upper bound another has reached need not be looked at.
        for group in sorted(self._groups, key=lambda group: -group.bound(j)):
            if group.bound(j) <= largest:
                break
            largest = max(largest, group.error(j))
        return largest
