"""Singular values of every slice, from Gram matrices, and the tables of options made from them.

σ(M)² are the eigenvalues of the smaller of M Mᵀ and Mᵀ M. In float64 the products of float32
numbers are exact, so that only the sums are rounded.

Some numbers of slices need no spectrum, because none of their options can be the best. Two proofs
are used, both about costs j·(k·rows + groups·columns), which rise with k and j:

- An option that is not smaller than the layer is never chosen.
- If the matrix (of each group, where there are groups) has rank R, the pair of one slice and
  rank R loses nothing. No option that costs as much can do better, by any measure of error.

More cannot be derived from the spectrum of one slice: by Weyl, a pair of k slices and rank j has
‖W − Ŵ‖₂ ≥ σ_{kj+1}(W), but one slice for the same cost has a rank of at most k·j. It is proven as
good only where the two singular values are equal, which is where both are zero.

Source: Liebenwein et al., NeurIPS 2021, Theorem 1 and supplement A.4, where the curves are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ldexp, prod, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alds_cli.numerics.eigenvalues import eigenvalues
from alds_cli.numerics.fold import folded_shape, full_rank, rank_params
from alds_cli.numerics.grams import even_exponent
from alds_cli.numerics.large_grams import LARGE, LargeSlice
from alds_cli.numerics.shared_grams import (
    Family,
    GramBatch,
    Slicing,
    families,
    family_bytes,
    family_grams,
)
from alds_cli.records import (
    Curve,
    FloatArray,
    IntArray,
    LayerSpec,
    LayerTable,
)
from alds_cli.runtime.pool import Spawn

MEASURES = ("sum_squares", "largest", "tail_energy", "saved")
"""The columns of a table that are taken from a curve."""

_COLUMNS = ("choices", "costs", *MEASURES, "exact")


def empty_table(spec: LayerSpec, exponent: int = 0) -> LayerTable:
    """Return a table without options and schemes, for 2**-exponent times the weight."""
    choices, costs, none = np.zeros((0, 3), np.int64), np.zeros(0, np.int64), np.zeros(0)
    return LayerTable(spec, {}, {}, {}, choices, costs, none, none, none, none, none, exponent)


def with_scheme(
    table: LayerTable, scheme: int, norm: float, curves: Mapping[int, Curve], slack: float
) -> LayerTable:
    """Return the table with the options of one more folding scheme.

    Args:
        table: the layer's table, without that scheme.
        scheme: the folding scheme.
        norm: σ_1 of the weight so folded.
        curves: the curves by number of slices k. 1 must be among them, unless there are none
            because no pair is smaller than the layer.
        slack: the most by which rounding may have moved a squared singular value.
    """
    if not curves:
        energy, columns = 0.0, {}
    else:
        energy = float(curves[1].tail_energy[0])
        columns = _columns_of(table, scheme, curves)
    return replace(
        table,
        norms={**table.norms, scheme: norm},
        energies={**table.energies, scheme: energy},
        slack={**table.slack, scheme: slack},
        **columns,
    )


def _columns_of(table: LayerTable, scheme: int, curves: Mapping[int, Curve]) -> dict[str, Any]:
    """Return the columns of a table with the options of one more scheme."""
    grid = _grid(table.spec.weight_shape, table.spec.groups, scheme, tuple(sorted(curves)))
    fresh: dict[str, FloatArray | IntArray] = {
        "choices": grid.choices,
        "costs": grid.costs,
        "exact": np.full(len(grid.costs), np.nan),
    }
    for name in MEASURES:
        column = np.concatenate([getattr(curves[k], name) for k in sorted(curves)])
        fresh[name] = column[grid.sources]
    return fresh if not len(table.costs) else _merged(table, fresh)


def _merged(
    table: LayerTable, fresh: Mapping[str, FloatArray | IntArray]
) -> dict[str, FloatArray | IntArray]:
    """Return the columns of a table with further rows, in order."""
    columns = {name: np.concatenate([getattr(table, name), fresh[name]]) for name in _COLUMNS}
    scheme, k, j = columns["choices"].T
    order = np.lexsort((j, k, scheme, columns["costs"]))
    return {name: column[order] for name, column in columns.items()}


def with_exact(table: LayerTable, rows: Iterable[int], errors: Iterable[float]) -> LayerTable:
    """Return the table with true errors ‖W − Ŵ‖₂ filled in at some rows."""
    exact = table.exact.copy()
    exact[list(rows)] = list(errors)
    return replace(table, exact=exact)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The options of a shape and scheme, and their positions in its curves laid end to end."""

    choices: IntArray
    costs: IntArray
    sources: IntArray


@lru_cache(maxsize=512)
def _grid(shape: tuple[int, ...], groups: int, scheme: int, ks: tuple[int, ...]) -> _Grid:
    """Return the options that shrink a layer, cheapest first; equal layers share the arrays."""
    lengths = np.array([full_rank(shape, scheme, k, groups) + 1 for k in ks])
    ends = np.cumsum(lengths)
    j = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    k = np.repeat(np.array(ks), lengths)
    costs = j * rank_params(*folded_shape(shape, scheme), k, groups)
    (smaller,) = np.nonzero((j > 0) & (costs < prod(shape)))
    sources = smaller[np.lexsort((j[smaller], k[smaller], costs[smaller]))]
    choices = np.stack([np.full(len(sources), scheme), k[sources], j[sources]], axis=1)
    for array in (choices, found := costs[sources], sources):
        array.setflags(write=False)
    return _Grid(choices, found, sources)


UNIT_ROUNDOFF = 2.0**-53


def rounding_share(terms: int) -> float:
    """Return the share of the trace by which eigenvalues of a Gram matrix in float64 may be off.

    It is about √terms unit roundoffs: sums of `terms` products are rounded, and the eigenvalue
    routine is backward stable.
    """
    return 8 * sqrt(terms) * UNIT_ROUNDOFF


def rounding_slack(spec: LayerSpec, scheme: int, whole: Curve) -> float:
    """Return the most by which float64 may have moved a squared singular value of a layer.

    Args:
        spec: the layer.
        scheme: the folding scheme.
        whole: the curve of one slice.
    """
    rows, columns = folded_shape(spec.weight_shape, scheme)
    return rounding_share(rows // spec.groups + columns) * float(whole.tail_energy[0])


def curve_of(eigenvalues: FloatArray, terms: int, exponent: int) -> Curve:
    """Return eigenvalues of scaled Gram matrices, largest first, as a curve over j = 0 … n.

    The most that rounding may have taken is added, so that upper bounds remain upper bounds.

    Args:
        eigenvalues: (groups, k, n).
        terms: the number of terms over which a sum may have been rounded.
        exponent: exponent of the power of two that the matrix was divided by.
    """
    exact = np.maximum(eigenvalues, 0.0)
    raised = exact + rounding_share(terms) * exact.sum(axis=2, keepdims=True)
    sums = raised.sum(axis=1)
    # One more entry for full rank, where nothing is lost.
    squares, largest, tails, saved = np.zeros((4, sums.shape[1] + 1))
    sums.max(axis=0, out=squares[:-1])
    np.sqrt(raised.max(axis=(0, 1)), out=largest[:-1])
    exact.sum(axis=(0, 1))[::-1].cumsum(out=tails[-2::-1])
    sums.sum(axis=0, out=saved[:-1])
    if exponent:
        largest *= ldexp(1.0, exponent)
        for energies in (squares, tails, saved):
            np.multiply(energies, ldexp(1.0, 2 * exponent), out=energies)
    return Curve(squares, largest, tails, saved)


_SAMPLE = 32
_LEAST_WORK = 2e9
"""Sum of cubed sides below which even a look at a sample takes too long."""

_WORTH_A_PROOF = 0.1
"""The share of the work that must be at stake before one slice is done ahead of the others."""


def ks_that_can_win(slicing: Slicing, ks: Sequence[int], rank: int) -> list[int]:
    """Return the ks with an option cheaper than one slice of that rank, and 1 itself."""
    exact = max(rank, 1) * _unit(slicing, 1)
    return [k for k in ks if k == 1 or _unit(slicing, k) < exact]


def numerical_rank(eigenvalues: FloatArray, terms: int) -> int:
    """Return the highest rank of any group, from squared singular values (groups, 1, n).

    Values that rounding may have produced do not count.
    """
    floor = rounding_share(terms) * np.maximum(eigenvalues, 0.0).sum(axis=2, keepdims=True)
    return int((eigenvalues > floor).sum(axis=2).max())


def worth_a_proof(slicing: Slicing, ks: Sequence[int]) -> bool:
    """Return whether a low rank may save much work; False for nearly all layers, at little cost.

    The rank of a few rows and columns of the first group is no larger than the matrix's.
    """
    work = {k: k * slicing.side(k) ** 3 for k in ks}
    if len(slicing.matrix) * sum(work.values()) < _LEAST_WORK:
        return False
    least = _unit(slicing, 1) * max(1, _rank_of_a_sample(slicing))
    at_stake = sum(work[k] for k in ks if k > 1 and _unit(slicing, k) >= least)
    return at_stake > _WORTH_A_PROOF * sum(work.values())


def _unit(slicing: Slicing, k: int) -> int:
    """Return the cost of one rank in every slice."""
    groups, rows, channels, width = slicing.matrix.shape
    return rank_params(groups * rows, channels * width, k, groups)


def _rank_of_a_sample(slicing: Slicing) -> int:
    """Return a lower bound on the rank of the first group's matrix."""
    first = slicing.matrix[0]
    rows, channels, width = first.shape
    every = max(1, channels * width // _SAMPLE)
    some = first[:: max(1, rows // _SAMPLE), :: max(1, every // width)]
    sample = slicing.prepared(some).flatten(1)[:, : 2 * _SAMPLE]
    # The trace separates squared singular values of the whole from rounding, and this is an
    # upper bound on it. Where it is far above, too few are counted, which costs only time.
    trace = first.numel() * 4.0 ** (even_exponent(first) - slicing.exponent)
    floor = rounding_share(rows + channels * width) * trace
    return int((torch.linalg.svdvals(sample).square() > floor).sum())


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
