"""Singular values of every slice, from Gram matrices, without an SVD.

σ(M)² are the eigenvalues of the smaller of M Mᵀ and Mᵀ M. In float64 the products of float32
numbers are exact, so that only the sums are rounded.

Source: Liebenwein et al., NeurIPS 2021, Theorem 1 and supplement A.4, where the curves are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import sqrt

import numpy as np
from torch import Tensor

from alds_cli.numerics.eigenvalues import eigenvalues
from alds_cli.numerics.grams import even_exponent
from alds_cli.numerics.large_grams import LARGE, LargeSlice
from alds_cli.numerics.option_tables import curve_of
from alds_cli.numerics.shared_grams import (
    Family,
    GramBatch,
    Slicing,
    families,
    family_bytes,
    family_grams,
)
from alds_cli.numerics.slice_counts import ks_that_can_win, numerical_rank, worth_a_proof
from alds_cli.records import Curve, FloatArray
from alds_cli.runtime.pool import Spawn

_WORTH_A_TASK = 1e-3
_LONGEST_TASK = 1e-2
"""Estimated seconds of work from which a batch is split off, and after which it is cut."""

_EXPONENT_OF_MATTER = 100
"""Squares and sums of entries between 2**±this are in range without scaling."""


class SpectraJob:
    """The spectra of one folded layer for several k, as a job for `pool.run_jobs`.

    Args:
        matrix: (rows, c / groups, q) as `fold` gives it, the rows group by group, of any
            floating dtype; never copied as a whole.
        ks: numbers of slices in each group, each a divisor of c / groups.
        groups: the groups of the layer, a divisor of the rows.
        prove: whether to leave out the ks for which the spectrum of one slice proves that no
            option can be better than one slice of a rank that loses nothing.
    """

    def __init__(
        self, matrix: Tensor, ks: Sequence[int], groups: int = 1, *, prove: bool = True
    ) -> None:
        self._slicing = Slicing.of(matrix, groups)
        self._ks = tuple(ks)
        self._prove = prove and 1 in ks
        self._values = {k: np.empty((groups, k, self._slicing.side(k))) for k in ks}

    @property
    def work(self) -> float:
        """Estimated flops of the eigenvalues: Σ groups · k · min(rows, columns / k)³."""
        return float(sum(values.size * values.shape[2] ** 2 for values in self._values.values()))

    @property
    def nbytes(self) -> int:
        """Bytes that forming the Gram matrices takes at a time, without those of large pieces."""
        _, small = self._by_size(self._ks)
        return max((family_bytes(self._slicing, *family) for family in small), default=0)

    @property
    def largest_block(self) -> int:
        """Bytes of the largest Gram matrix, whether the job's own or that of a piece."""
        return max(8 * self._slicing.side(k) ** 2 for k in self._ks)

    def __call__(self, spawn: Spawn) -> None:
        """Form the Gram matrices; long batches of eigenvalues become tasks of their own."""
        exponent = even_exponent(self._slicing.matrix)
        if abs(exponent) > _EXPONENT_OF_MATTER:
            self._slicing = replace(self._slicing, exponent=exponent)
        if not (self._prove and worth_a_proof(self._slicing, self._ks)):
            self._solve_all(self._ks, spawn)
        elif self._slicing.side(1) > LARGE:
            pieces = self._large(1, [])
            spawn.later([(partial(self._one_slice_first, pieces, spawn), pieces[0].nbytes)])
        else:
            for batch in family_grams(self._slicing, 1, []):
                self._solve(batch.k, batch.first, batch.grams)
            self._solve_what_can_win(spawn)

    def _one_slice_first(self, pieces: Sequence[LargeSlice], spawn: Spawn) -> None:
        for piece in pieces:
            piece(spawn)
        self._solve_what_can_win(spawn)

    def _solve_what_can_win(self, spawn: Spawn) -> None:
        rank = numerical_rank(self._values[1], self._terms)
        kept = ks_that_can_win(self._slicing, self._ks, rank)
        self._values = {k: self._values[k] for k in kept}
        self._solve_all([k for k in kept if k != 1], spawn)

    def _solve_all(self, ks: Sequence[int], spawn: Spawn) -> None:
        large, small = self._by_size(ks)
        pieces = [piece for family in large for piece in self._large(*family)]
        spawn.later([(partial(piece, spawn), piece.nbytes) for piece in pieces])
        for leader, others in small:
            for batch in family_grams(self._slicing, leader, others):
                self._split(batch, spawn)
                del batch  # otherwise it would live on while the next one is formed

    def _by_size(self, ks: Sequence[int]) -> tuple[list[Family], list[Family]]:
        """Return the families of large Gram matrices, and the others."""
        found = families(self._slicing, ks)
        large = [family for family in found if self._slicing.side(family[0]) > LARGE]
        return large, [family for family in found if family not in large]

    def _large(self, leader: int, others: list[int]) -> list[LargeSlice]:
        """Return the large slices of a family; wide ones share nothing, not even the memory."""
        tall = self._slicing.tall(leader)
        members = [(leader, others)] if tall else [(k, []) for k in sorted([leader, *others])]
        return [
            LargeSlice(self._slicing, k, index, finer, self._store)
            for k, finer in members
            for index in range(len(self._slicing.matrix) * k)
        ]

    def _split(self, batch: GramBatch, spawn: Spawn) -> None:
        seconds = _seconds(batch.grams.shape[-1])
        if len(batch.grams) * seconds < _WORTH_A_TASK:
            self._solve(batch.k, batch.first, batch.grams)
            return
        together = max(1, int(_LONGEST_TASK / seconds))
        for start in range(0, len(batch.grams), together):
            grams = batch.grams[start : start + together]
            spawn(partial(self._solve, batch.k, batch.first + start, grams), 2 * grams.nbytes)

    def _solve(self, k: int, first: int, grams: Tensor) -> None:
        self._store(k, first, eigenvalues(grams))

    def _store(self, k: int, first: int, values: FloatArray) -> None:
        known = self._values[k].reshape(-1, values.shape[1])
        known[first : first + len(values)] = values

    @property
    def _terms(self) -> int:
        """The number of terms over which sums may have been rounded."""
        _, rows, channels, width = self._slicing.matrix.shape
        return rows + channels * width

    @property
    def norm(self) -> float:
        """σ_1 of the whole matrix, available once the job is done; requires 1 among the ks."""
        largest = float(self._values[1][:, 0, 0].max())
        return sqrt(max(largest, 0.0)) * 2.0**self._slicing.exponent

    def curves(self) -> dict[int, Curve]:
        """Return the curve of every k not left out, once the job and its tasks are done."""
        return {
            k: curve_of(values, self._terms, self._slicing.exponent)
            for k, values in self._values.items()
        }


def _seconds(size: int) -> float:
    """Return the approximate seconds that the eigenvalues of one matrix take."""
    return 3e-8 * size**2 + 6e-11 * size**3
