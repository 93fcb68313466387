"""Singular values of every slice, from Gram matrices, without an SVD.

σ(M)² are the eigenvalues of the smaller of M Mᵀ and Mᵀ M. Formed in float64 the
products of float32 numbers are exact, so only the sums round. Gram matrices are shared
between the numbers of slices k: M Mᵀ of a coarse slice is the sum of those of the finer
slices in it, and Mᵀ M of a fine slice is a diagonal block of a coarser one's.

What the curves are used for: Liebenwein et al., NeurIPS 2021, Theorem 1 and
supplement A.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import frexp, ldexp, sqrt

import numpy as np
import torch
from torch import Tensor

from alds_cli.numerics.grams import CHUNK_BYTES, slice_grams, slice_ranges, solve_in_place
from alds_cli.numerics.pool import Spawn
from alds_cli.records import Curve, FloatArray

FAMILY_BYTES = 128 << 20
"""Large Gram matrices are shared between numbers of slices only as far as this many bytes
hold the sums in the making; beyond it the coarser ones are formed afresh."""

_IN_PLACE = 3200
"""Beyond this side eigenvalues are found in the matrix's own memory: two to three times as
slow as torch's way, which takes a copy."""

_UNIT_ROUNDOFF = 2.0**-53


@dataclass(frozen=True, slots=True)
class GramBatch:
    """Gram matrices (b, n, n) of the slices `first` … `first + b - 1` out of k."""

    k: int
    first: int
    grams: Tensor


class SpectraJob:
    """The spectra of one folded layer for several k, as a job for `pool.run_jobs`.

    Args:
        matrix: (rows, c, q) as `fold` gives it, of any floating dtype; never copied whole.
        ks: numbers of slices, each a divisor of c.
    """

    def __init__(self, matrix: Tensor, ks: Sequence[int]) -> None:
        rows, channels, width = matrix.shape
        self._matrix = matrix
        self._ks = tuple(ks)
        self._exponent = _exponent(matrix)
        self._terms = rows + channels * width
        self._values = {k: np.empty((k, min(rows, channels // k * width))) for k in ks}

    @property
    def work(self) -> float:
        """Estimated flops of the eigenvalues: Σ k · min(rows, columns / k)³."""
        return float(sum(k * values.shape[1] ** 3 for k, values in self._values.items()))

    @property
    def nbytes(self) -> int:
        """What forming the Gram matrices takes at a time."""
        largest = 8 * max(values.shape[1] for values in self._values.values()) ** 2
        return 3 * CHUNK_BYTES + max(largest, min(FAMILY_BYTES, 3 * largest))

    def __call__(self, spawn: Spawn) -> None:
        """Form the Gram matrices; each batch's eigenvalues become a task of their own."""
        for batch in gram_batches(self._matrix, self._ks, self._exponent):
            spawn(partial(self._solve, batch), batch.grams.nbytes * _copies(batch))
            del batch  # or it would live on while the next one is formed

    def _solve(self, batch: GramBatch) -> None:
        grams = batch.grams
        self._values[batch.k][batch.first : batch.first + len(grams)] = _eigenvalues(grams)

    @property
    def norm(self) -> float:
        """σ_1 of the whole matrix, once done; needs 1 among the ks."""
        return ldexp(sqrt(max(self._values[1][0, 0], 0.0)), self._exponent)

    def curves(self) -> dict[int, Curve]:
        """The curve of every k; to be called when the job and its tasks are done."""
        return {
            k: _curve(values, self._terms, self._exponent) for k, values in self._values.items()
        }


def _copies(batch: GramBatch) -> int:
    """As how many matrices of its size a batch counts while its eigenvalues are found."""
    return 1 if batch.grams.shape[-1] > _IN_PLACE else 2


def _eigenvalues(grams: Tensor) -> FloatArray:
    """Largest first, (b, n); large matrices are overwritten."""
    size = grams.shape[-1]
    if size == 1:
        return np.asarray(grams[:, :, 0].numpy())
    if size <= _IN_PLACE:
        return np.asarray(torch.linalg.eigvalsh(grams).flip(-1).numpy())
    found = [solve_in_place(gram, driver="evd", eigvals_only=True)[::-1] for gram in grams]
    return np.stack(found)


def gram_batches(matrix: Tensor, ks: Sequence[int], exponent: int = 0) -> Iterator[GramBatch]:
    """Gram matrices in float64 of every slice for every k, of 2**-exponent times the matrix.

    Args:
        matrix: (rows, c, q).
        ks: divisors of c.
        exponent: of the power of two that the entries are divided by.

    Yields:
        Batches in no particular order of k; each k's slices are covered once. The tensor
        is the receiver's to keep.
    """
    rows, channels, width = matrix.shape
    wide = [k for k in ks if rows <= channels // k * width]
    tall = [k for k in ks if rows > channels // k * width]
    for finest, others in _families(sorted(wide, reverse=True)):
        yield from _summed_grams(matrix, finest, others, exponent)
    for coarsest, others in _families(sorted(tall)):
        yield from _blocked_grams(matrix, coarsest, others, exponent)


def _families(ordered: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Partition ks: a leader, and the later ones whose Gram matrices follow from its own."""
    families: list[tuple[int, list[int]]] = []
    for k in ordered:
        related = (others for leader, others in families if max(leader, k) % min(leader, k) == 0)
        home = next(related, None)
        if home is None:
            families.append((k, []))
        else:
            home.append(k)
    return families


def _summed_grams(
    matrix: Tensor, finest: int, others: Sequence[int], exponent: int
) -> Iterator[GramBatch]:
    """M Mᵀ of the finest slices; coarser k by adding up neighbours."""
    rows = matrix.shape[0]
    if finest * 8 * rows * rows <= CHUNK_BYTES:
        grams = slice_grams(matrix, finest, 0, finest, exponent)
        for k in others:
            yield GramBatch(k, 0, grams.view(k, finest // k, rows, rows).sum(1))
        yield GramBatch(finest, 0, grams)
        return
    # One sum in the making for each of the others, the finest itself, and what its
    # eigenvalues take.
    room = max(0, FAMILY_BYTES // (8 * rows * rows) - 2)
    alone, shared = others[room:], others[:room]
    for k in alone:
        for index in range(k):
            yield GramBatch(k, index, slice_grams(matrix, k, index, index + 1, exponent))
    sums: dict[int, Tensor] = {}
    for index in range(finest):
        gram = slice_grams(matrix, finest, index, index + 1, exponent)
        for k in shared:
            sums[k] = sums[k].add_(gram) if k in sums else gram.clone()
            if (index + 1) % (finest // k) == 0:
                yield GramBatch(k, index // (finest // k), sums.pop(k))
        yield GramBatch(finest, index, gram)
        del gram


def _blocked_grams(
    matrix: Tensor, coarsest: int, others: Sequence[int], exponent: int
) -> Iterator[GramBatch]:
    """Mᵀ M of the coarsest slices; finer k are blocks on their diagonals."""
    size = matrix.shape[1] * matrix.shape[2] // coarsest
    for start, stop in slice_ranges(coarsest, 8 * size * size):
        grams = slice_grams(matrix, coarsest, start, stop, exponent)
        for k in others:
            parts = k // coarsest
            blocks = grams.view(-1, parts, size // parts, parts, size // parts)
            own = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).flatten(0, 1)
            yield GramBatch(k, start * parts, own.contiguous())
            del blocks, own
        yield GramBatch(coarsest, start, grams)
        del grams


def _exponent(matrix: Tensor) -> int:
    """Exponent e with max|entry| in [2**(e-1), 2**e), so that scaled squares stay in range."""
    low, high = torch.aminmax(matrix)
    return frexp(max(-low.item(), high.item()))[1]


def _curve(eigenvalues: FloatArray, terms: int, exponent: int) -> Curve:
    """Eigenvalues (k, n) of scaled Gram matrices, largest first, as a curve over j = 0 … n.

    Rounding moves an eigenvalue by about √terms unit roundoffs of the trace (sums of
    `terms` products; the eigenvalue routine is backward stable). That much is added, so
    that what is called an upper bound stays one.
    """
    exact = np.maximum(eigenvalues, 0.0)
    trace = exact.sum(axis=1, keepdims=True)
    raised = exact + 8 * np.sqrt(terms) * _UNIT_ROUNDOFF * trace
    unit = ldexp(1.0, 2 * exponent)
    squares = _closed_by_zero(raised.sum(axis=0)) * unit
    return Curve(
        sum_squares=squares,
        largest=_closed_by_zero(np.sqrt(raised.max(axis=0))) * ldexp(1.0, exponent),
        tail_energy=_closed_by_zero(exact[:, ::-1].cumsum(axis=1)[:, ::-1].sum(axis=0)) * unit,
        saved=squares,
    )


def _closed_by_zero(values: FloatArray) -> FloatArray:
    """One entry more for full rank, where nothing is lost."""
    return np.append(values, 0.0)
