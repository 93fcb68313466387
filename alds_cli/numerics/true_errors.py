"""True errors ‖M − M̂‖₂ of many options, computed on request: in batches, and never twice.

The decomposition for one rank of a (layer, scheme, k) is kept for its other ranks, within a bound
on memory; `slice_svd` tells why one decomposition serves them all.

Where σ_{i,j} = σ_{i,j+1} there are several best approximations, and the errors of several slices
together may differ between them: the value is that of one of them.

Accuracy: the decompositions come from eigenvectors of Gram matrices, whose rounding is relative to
σ_1². Errors below `_FINE` of σ_1 would suffer, so they come from triangular factors of the slices
and their singular vectors instead, at about three times the cost.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from typing import NamedTuple

import numpy as np
from torch import Tensor

from alds_cli.numerics.slice_svd import GroupDecomposition, Layout, Piece
from alds_cli.records import Curve, FloatArray
from alds_cli.runtime.pool import Spawn, run_jobs

KEPT_MEMORY = 512 << 20
"""Bytes of decompositions that are kept for later ranks, unless another bound is given."""


class Subject(NamedTuple):
    """The subject of one decomposition: a layer, folded by a scheme and cut into k slices."""

    layer: str
    scheme: int
    k: int


class Option(NamedTuple):
    """A subject and the rank j of its slices."""

    layer: str
    scheme: int
    k: int
    j: int

    @property
    def subject(self) -> Subject:
        """The option without its rank."""
        return Subject(*self[:3])


@dataclass(slots=True)
class _Wave:
    """Subjects that are in memory together; those of `new` are still to be decomposed."""

    subjects: dict[Subject, Decomposition] = field(default_factory=dict)
    new: list[Subject] = field(default_factory=list)
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    """A `pool.Job` that runs one action."""

    action: Callable[[], None]
    nbytes: int

    def __call__(self, spawn: Spawn) -> None:
        del spawn
        self.action()


class ExactErrors:
    """The errors ‖M − M̂‖₂ of options, each computed when it is first requested.

    Several threads may use it, and wait for each other, but not from within a job of the pool. A
    value depends neither on earlier requests nor on the number of threads.

    Args:
        matrix_of: returns the folded weight (rows, c, q) of a layer by a scheme.
        groups: the groups of the layers that have more than one, by layer.
        memory: the most bytes of decompositions to keep. Those in the making, with the matrices
            that they are made from, stay within it too, unless a single one does not.
    """

    def __init__(
        self,
        matrix_of: Callable[[str, int], Tensor],
        groups: Mapping[str, int] | None = None,
        *,
        memory: int = KEPT_MEMORY,
    ) -> None:
        self._matrix_of = matrix_of
        self._groups = dict(groups or {})
        self._memory = memory
        self._lock = threading.Lock()
        self._errors: dict[Option, float] = {}
        self._small: dict[Subject, range] = {}  # ranks with errors too small for a coarse one
        self._kept: OrderedDict[tuple[Subject, bool], Decomposition] = OrderedDict()

    @property
    def kept_bytes(self) -> int:
        """Bytes of the decompositions that are kept at the moment."""
        return sum(found.nbytes for found in self._kept.values())

    def __call__(self, layer: str, scheme: int, k: int, j: int) -> float:
        """Return the absolute error of one option."""
        return self.batch([(layer, scheme, k, j)])[0]

    def batch(self, options: Iterable[tuple[str, int, int, int]]) -> list[float]:
        """Return the errors of (layer, scheme, k, j); new ones are computed side by side."""
        asked = [Option(*option) for option in options]
        with self._lock:
            new = [option for option in dict.fromkeys(asked) if option not in self._errors]
            self._find([option for option in new if not self._too_coarse(option)], fine=False)
            self._find([option for option in new if option not in self._errors], fine=True)
            return [self._errors[option] for option in asked]

    def _too_coarse(self, option: Option) -> bool:
        """Return whether a coarse decomposition is known to be insufficient."""
        return option.j in self._small.get(option.subject, range(0))

    def _find(self, options: Sequence[Option], *, fine: bool) -> None:
        """Compute errors; coarse decompositions skip those that are too small for them."""
        ranks: dict[Subject, list[int]] = {}
        for option in options:
            ranks.setdefault(option.subject, []).append(option.j)
        for wave in self._waves(ranks, fine=fine):
            self._decompose(wave, fine=fine)
            sought = [Option(*subject, j) for subject in wave.subjects for j in ranks[subject]]
            self._measure(wave, [o for o in sought if fine or not self._too_coarse(o)])

    def _waves(self, ranks: Mapping[Subject, list[int]], *, fine: bool) -> Iterator[_Wave]:
        """Yield all subjects, as many together as memory allows."""
        wave = _Wave()
        for subject, asked in ranks.items():
            found = self._kept.get((subject, fine))
            if found is not None and found.serves(asked):
                self._kept.move_to_end((subject, fine))
                wave.subjects[subject] = found
                continue
            matrix = self._matrix_of(subject.layer, subject.scheme)
            groups = self._groups.get(subject.layer, 1)
            made = Decomposition(matrix, subject.k, groups, ranks=asked, fine=fine)
            nbytes = made.nbytes + matrix.nbytes
            if wave.nbytes and wave.nbytes + nbytes > self._memory:
                yield wave
                wave = _Wave()
            wave.subjects[subject] = made
            wave.new.append(subject)
            wave.nbytes += nbytes
        if wave.subjects:
            yield wave

    def _decompose(self, wave: _Wave, *, fine: bool) -> None:
        """Decompose the new subjects of a wave, and keep the results."""
        self._make_room(wave.nbytes)
        made = [wave.subjects[subject] for subject in wave.new]
        pieces = [piece for decomposition in made for piece in decomposition.pieces()]
        _run([_Task(*piece) for piece in pieces])
        _run([_Task(found.finish, found.layout.finish_bytes()) for found in made])
        for subject, decomposition in zip(wave.new, made, strict=True):
            if not fine:
                first = decomposition.coarse_from()
                self._small[subject] = range(first, decomposition.layout.size)
            self._kept[subject, fine] = decomposition
            self._kept.move_to_end((subject, fine))
        self._make_room(0)

    def _make_room(self, nbytes: int) -> None:
        """Release the least recently used decompositions until `nbytes` more fit."""
        while self._kept and self.kept_bytes + nbytes > self._memory:
            self._kept.popitem(last=False)

    def _measure(self, wave: _Wave, options: Sequence[Option]) -> None:
        """Compute the errors of options whose subjects are decomposed."""
        found: dict[Option, float] = {}

        def measure(option: Option) -> None:
            found[option] = wave.subjects[option.subject].error(option.j)

        def nbytes(option: Option) -> int:
            return wave.subjects[option.subject].layout.error_bytes()

        _run([_Task(partial(measure, option), nbytes(option)) for option in options])
        self._errors.update(found)


def _run(tasks: Sequence[_Task]) -> None:
    """Run tasks on the pool; those that take the most memory, and so the longest, come first."""
    if tasks:
        run_jobs(sorted(tasks, key=lambda task: -task.nbytes))


_FINE = 2.0**-8
"""Largest next singular value, relative to σ_1, below which Gram matrices are too coarse:
their rounding, some 1e-15 σ_1², is then beyond 1e-10 of the square of the error."""


def exact_errors(matrix: Tensor, k: int, ranks: Sequence[int], groups: int = 1) -> FloatArray:
    """Return ‖M − M̂_j‖₂ for every rank j, to 1e-9 of itself and 1e-14 σ_1 (float64).

    The result is repeatable to the bit on one BLAS thread, and does not depend on the other ranks.

    Args:
        matrix: M, (rows, c, q) as `fold.fold` gives it, of any floating dtype, the rows group by
            group.
        k: number of slices in a group, a divisor of c.
        ranks: each at least 0; from full rank on the error is 0.
        groups: the groups of the layer, a divisor of the rows.

    Returns:
        The absolute errors, (len(ranks),).
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
    """Return the bytes that `Decomposition.run` and one `error` after it take, with those kept.

    Args:
        shape: the shape of the matrix, (rows, c, q).
        k: number of slices in a group.
        ranks: the ranks that are known beforehand.
        groups: the groups of the layer.
        fine: whether triangular factors are decomposed instead of Gram matrices.
    """
    layout = Layout(shape, k, groups)
    once = max(layout.piece_bytes(fine=fine), layout.finish_bytes(), layout.error_bytes())
    return layout.kept_bytes(ranks, fine=fine) + once


def error_interval(curve: Curve, whole: Curve, k: int, j: int, terms: int) -> tuple[float, float]:
    """Return proven bounds on the exact error of (k, j), from the curves of the table alone.

    A slice is a submatrix, and a pair with k slices of rank j has rank k·j at most, so the error is
    at least max_i σ_{i,j+1} and σ_{kj+1}(M). The blocks of different slices add up to at most
    sqrt(Σ_i σ²_{i,j+1}) (Liebenwein et al., NeurIPS 2021, Theorem 1, whose √k·max_i σ_{i,j+1} is no
    less).

    Args:
        curve: the curve of the (scheme, k) concerned.
        whole: the curve of the same scheme for k = 1.
        k: number of slices.
        j: rank of each of them.
        terms: rows + columns of a group's matrix, as given to `spectra.curve_of`.

    Returns:
        (max(largest, σ_{kj+1}), sqrt(sum_squares)), the former reduced by twice the amount by
        which the curves were raised to stay above the singular values.
    """
    below = max(float(curve.largest[j]), float(whole.largest[min(k * j, len(whole.largest) - 1)]))
    raised = 8 * sqrt(terms) * 2.0**-53 * float(curve.tail_energy[0])
    return sqrt(max(below**2 - 2 * raised, 0.0)), sqrt(float(curve.sum_squares[j]))


class Decomposition:
    """All slices of a layer for one k, decomposed; gives the exact error of any rank.

    Errors are available once all `pieces` have been run, and then `finish`.

    Args:
        matrix: (rows, c, q), the rows group by group; released by `finish`.
        k: number of slices in a group.
        groups: the groups of the layer.
        ranks: the ranks whose errors will be needed; relevant only for `Layout.large`.
        fine: whether to decompose triangular factors instead of Gram matrices.

    Attributes:
        nbytes: the bytes that stay in memory.
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
        """Return the work to do before anything else, in any order and on any threads."""
        pairs = zip(self._groups, self._matrices, strict=True)
        return [piece for group, matrix in pairs for piece in group.pieces(matrix)]

    def finish(self) -> None:
        """Complete the decomposition once all pieces are done."""
        for group, matrix in zip(self._groups, self._matrices, strict=True):
            group.finish(matrix)
        self._matrices = []

    def run(self) -> None:
        """Run all pieces and finish, on this thread."""
        for task, _ in self.pieces():
            task()
        self.finish()

    def coarse_from(self) -> int:
        """Return the least rank, at most full, whose error a coarse decomposition cannot give."""
        largest = np.max([group.largest() for group in self._groups], axis=0)
        # For large layers, squares are subtracted from those of the whole, whose σ_1 is at most
        # this.
        norm = largest[0] * (sqrt(self.layout.k) if self.layout.large else 1.0)
        return int(np.count_nonzero(largest >= _FINE * norm)) if norm > 0 else self.layout.size

    def too_coarse(self, j: int) -> bool:
        """Return whether rank j needs a fine decomposition, where this one is coarse."""
        return self.coarse_from() <= j < self.layout.size

    def serves(self, ranks: Sequence[int]) -> bool:
        """Return whether the errors of these ranks are available; large layers have only some."""
        below = [j for j in ranks if j < self.layout.size]
        return all(group.serves(j) for group in self._groups for j in below)

    def error(self, j: int) -> float:
        """Return ‖M − M̂_j‖₂, the largest error of any group."""
        if j >= self.layout.size:
            return 0.0
        largest = 0.0
        # A group whose upper bound another has reached cannot matter.
        for group in sorted(self._groups, key=lambda group: -group.bound(j)):
            if group.bound(j) <= largest:
                break
            largest = max(largest, group.error(j))
        return largest
