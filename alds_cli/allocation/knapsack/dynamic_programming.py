"""Closing the gap: lists of partial selections, merged layer by layer.

In the method of Nemhauser and Ullmann (1969), only the undominated partial selections over the
same layers are kept. Those that provably cannot become better than the best known solution are
dropped as well, by the bounds of the relaxation. Where a list would still grow too long, the
least promising partial selections are given up and the bound on what they could have become is
recorded: the search is then no longer exact, but the bound that it proves remains valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation.knapsack.instance import KnapsackInstance, priced
from alds_cli.allocation.knapsack.lagrangian import Relaxation
from alds_cli.allocation.layer_options import undominated
from alds_cli.records import FloatArray, IntArray

_ONE_BUDGET, _SEVERAL = 4096, 512
"""The number of partial selections kept; comparing them is slower for several budgets."""

_AT_ONCE = 1 << 20
"""The most partial selections that adding a layer's options may create, to bound memory."""

_COMPARED_AT_ONCE = {True: 1 << 18, False: 1 << 12}
"""The most partial selections compared with each other, by whether there is one budget."""

_COMPARED = 1000
"""The number of last candidates, equal up to rounding, that are added up exactly."""


@dataclass(slots=True)
class DynamicProgram:
    """The state of the search, with the best known solution and its value, `most`.

    With `enough`, the question is only whether a value of at most `enough` is possible.
    `given_up` is the least value that anything dropped without proof could have reached.
    `proven` is a lower bound on every selection that could still have been useful.
    """

    instance: KnapsackInstance
    relaxation: Relaxation
    best: IntArray | None
    enough: float | None = None
    most: float = np.inf
    given_up: float = np.inf
    proven: float = field(init=False)
    numbers: IntArray = field(init=False)
    shift: int = field(init=False)
    exact: bool = field(init=False)

    def __post_init__(self) -> None:
        self.numbers, self.shift, self.exact = self.instance.fixed_point()
        if self.best is not None:
            self.most = self.instance.value(self.best)
        self.proven = self.relaxation.bound

    @property
    def cutoff(self) -> float:
        """The least value that is of no use: the best known one, or one beyond `enough`."""
        wanted = np.inf if self.enough is None else float(np.nextafter(self.enough, np.inf))
        return min(self.most, wanted)

    @property
    def lower_bound(self) -> float:
        """A lower bound on the value of every selection within the budgets."""
        return min(self.cutoff, self.proven)

    def run(self) -> None:
        """Search to the end, or until the best value is at most `enough`."""
        options = _Options.of(self)
        partial = Partial.empty(len(self.instance.budgets))
        for step in range(len(options.layers)):
            if self.enough is not None and self.most <= self.enough:
                return
            if not len(partial.numbers):
                break
            partial = self._merged(partial, options, step)
        self.proven = max(self.proven, self.given_up)

    def _merged(self, partial: Partial, options: _Options, step: int) -> Partial:
        """Return the useful combinations of partial selections and options of the next layer."""
        instance, relaxation = self.instance, self.relaxation
        positions = options.positions[step]
        limit = self.cutoff - relaxation.bound + relaxation.margin
        lightest = partial.reduced.min()
        positions = positions[relaxation.reduced[positions] + lightest < limit]
        filled = options.filling_costs[-1][step]
        partial = self._shortened(partial, _AT_ONCE // max(len(positions), 1), filled)
        grown = partial.times(
            positions,
            self.numbers[positions],
            instance.costs[positions],
            relaxation.reduced[positions],
        )
        alive = (grown.reduced < limit) & np.all(
            grown.costs + options.least_costs[step + 1] <= instance.budgets, axis=1
        )
        alive &= grown.numbers + options.least_numbers[step + 1] < self._ceiling()
        grown = grown.at(np.nonzero(alive)[0])
        filled = options.filling_costs[-1][step + 1]
        one = len(instance.budgets) == 1
        grown = self._shortened(grown, _COMPARED_AT_ONCE[one], filled)
        slack = 0 if self.exact else step + 1
        grown = grown.at(undominated(grown.numbers, grown.costs, slack))
        grown = self._shortened(grown, _ONE_BUDGET if one else _SEVERAL, filled)
        self._complete(grown, options, step)
        return grown

    def _ceiling(self) -> int:
        """Return the cutoff in fixed point, rounded up; values that reach it are of no use."""
        if self.cutoff == np.inf:
            return 1 << 62
        return min(math.ceil(Fraction(self.cutoff) * Fraction(2) ** self.shift), 1 << 62)

    def _shortened(self, partial: Partial, count: int, filled: IntArray) -> Partial:
        """Return the most promising partial selections, at most `count`.

        Half of them are those with the best bounds. The others are those whose outcome comes
        closest to their bound if the open layers cost what is `filled` in for them: leaving budget
        unspent has a price, as exceeding it has.
        """
        if len(partial.numbers) <= count:
            return partial
        left = np.abs(self.instance.budgets - (partial.costs + filled))
        outcome = partial.reduced + priced(left, self.relaxation.prices)
        order = np.argsort(partial.reduced, kind="stable")
        rest = order[count // 2 :]
        rest = rest[np.argsort(outcome[rest], kind="stable")]
        kept, dropped = rest[: count - count // 2], rest[count - count // 2 :]
        least = float(partial.reduced[dropped].min())
        bound = self.relaxation.bound + least - self.relaxation.margin
        self.given_up = min(self.given_up, bound)
        return partial.at(np.concatenate([order[: count // 2], kept]))

    def _complete(self, partial: Partial, options: _Options, step: int) -> None:
        """Fill the open layers in each known way, and keep a result that beats the best."""
        last = step + 1 == len(options.layers)
        for way in range(len(options.fillings)):
            numbers = partial.numbers + options.filling_numbers[way][step + 1]
            costs = partial.costs + options.filling_costs[way][step + 1]
            good = (numbers < self._ceiling()) & np.all(costs <= self.instance.budgets, axis=1)
            (found,) = np.nonzero(good)
            found = found[np.argsort(numbers[found], kind="stable")]
            if last and not self.exact and len(found) > _COMPARED:
                left_out = np.ldexp(float(numbers[found[_COMPARED]]), -self.shift)
                self.given_up = min(self.given_up, float(np.nextafter(left_out, -np.inf)))
            for row in found[: 1 if self.exact or not last else _COMPARED]:
                positions = options.fillings[way].copy()
                done = options.layers[: step + 1]
                positions[done] = partial.traced(int(row))
                value = self.instance.value(positions)
                if value < self.most:
                    self.best, self.most = positions, value
            if last:
                return  # no layer is open any more, so all ways are the same


@dataclass(frozen=True, slots=True)
class _Options:
    """The layers in the order in which they are merged, and what can still be chosen for them.

    `positions` holds, by step, the options that could be part of a solution better than the best
    known one. `least_numbers` and `least_costs` are the sums of the least values and costs over
    the layers from a step on. `fillings` are complete selections with which open layers are
    filled; `filling_numbers` and `filling_costs` are their sums from a step on.
    """

    layers: IntArray
    positions: list[IntArray]
    least_numbers: IntArray
    least_costs: IntArray
    fillings: list[IntArray]
    filling_numbers: list[IntArray]
    filling_costs: list[IntArray]

    @classmethod
    def of(cls, search: DynamicProgram) -> _Options:
        """Drop the options that raise the bound to the best known value when imposed."""
        instance, relaxation = search.instance, search.relaxation
        limit = search.cutoff - relaxation.bound + relaxation.margin
        kept: NDArray[np.bool_] = relaxation.reduced < limit
        if search.best is not None:
            kept[search.best] = True
        pieces = [
            start + np.nonzero(kept[start:end])[0]
            for start, end in zip(instance.starts, instance.ends, strict=True)
        ]
        # The layers whose two best options compete most closely go first, so that little more than
        # the best option of later layers can be afforded.
        second = [
            np.sort(relaxation.reduced[piece])[1] if len(piece) > 1 else -1.0 for piece in pieces
        ]
        layers = np.argsort(second, kind="stable")
        pieces = [pieces[layer] for layer in layers]
        least = np.array([search.numbers[piece].min() for piece in pieces])
        costs = np.array([instance.costs[piece].min(axis=0) for piece in pieces])
        fillings = [] if search.best is None else [search.best]
        fillings += [relaxation.selections[-1], instance.first_of_least(relaxation.reduced)]
        return cls(
            layers,
            pieces,
            _from_here(least),
            _from_here(costs),
            fillings,
            [_from_here(search.numbers[filling][layers]) for filling in fillings],
            [_from_here(instance.costs[filling][layers]) for filling in fillings],
        )


def _from_here(terms: IntArray) -> IntArray:
    """Return the sums over the terms from each on, followed by 0: (n + 1, …)."""
    sums: IntArray = np.cumsum(terms[::-1], axis=0)[::-1]
    return np.concatenate([sums, np.zeros_like(terms[:1])])


@dataclass(frozen=True, slots=True)
class Partial:
    """Partial selections: their values in fixed point, costs, reduced values and history.

    `history` holds the parents' rows and the chosen positions of every layer merged.
    """

    numbers: IntArray
    costs: IntArray
    reduced: FloatArray
    history: tuple[tuple[IntArray, IntArray], ...]

    @classmethod
    def empty(cls, resources: int) -> Partial:
        """Return the one selection over no layers."""
        return cls(np.zeros(1, np.int64), np.zeros((1, resources), np.int64), np.zeros(1), ())

    def times(
        self, positions: IntArray, numbers: IntArray, costs: IntArray, reduced: FloatArray
    ) -> Partial:
        """Combine every partial selection with every option of a layer."""
        rows = np.repeat(np.arange(len(self.numbers)), len(positions))
        return Partial(
            (self.numbers[:, None] + numbers).ravel(),
            (self.costs[:, None] + costs).reshape(-1, costs.shape[1]),
            (self.reduced[:, None] + reduced).ravel(),
            (*self.history, (rows, np.tile(positions, len(self.numbers)))),
        )

    def at(self, rows: IntArray) -> Partial:
        """Return the partial selections in these rows."""
        *before, (parents, positions) = self.history
        latest = (parents[rows], positions[rows])
        return Partial(self.numbers[rows], self.costs[rows], self.reduced[rows], (*before, latest))

    def traced(self, row: int) -> list[int]:
        """Return the positions that a partial selection consists of, by step."""
        found = []
        for parents, positions in reversed(self.history):
            found.append(int(positions[row]))
            row = int(parents[row])
        return found[::-1]
