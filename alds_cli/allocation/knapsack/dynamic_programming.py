"""Closing the gap: lists of partial selections, merged layer by layer.

The method of Nemhauser and Ullmann (1969): of partial selections over the same layers only
the undominated ones are kept. What provably cannot become better than the best solution
known is dropped as well, by the bounds of the relaxation. Where a list would still grow too
long, the least promising partial selections are given up and the bound on what they could
have become is remembered: the search is then no longer exact, but what it proves stands.
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
"""How many partial selections are kept: comparing them is slower for several budgets."""

_AT_ONCE = 1 << 20
"""How many a layer's options are allowed to make of them, to bound memory."""

_COMPARED_AT_ONCE = {True: 1 << 18, False: 1 << 12}
"""How many are compared with each other at most, by whether there is one budget."""

_COMPARED = 1000
"""How many last candidates that differ by rounding alone are added up exactly."""


@dataclass(slots=True)
class DynamicProgram:
    """The state of the search, with the best solution known and its value (`most`).

    With `enough` it is only asked whether a value of at most so much can be had.
    `given_up` is the least that anything dropped without proof could have come to, and
    `proven` what no selection that could still have been of use lies below.
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
        """What is not below this is of no use."""
        wanted = np.inf if self.enough is None else float(np.nextafter(self.enough, np.inf))
        return min(self.most, wanted)

    @property
    def lower_bound(self) -> float:
        """What no selection within the budgets lies below."""
        return min(self.cutoff, self.proven)

    def run(self) -> None:
        """Search, to the end or until the best is enough."""
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
        """Every partial selection with every option of the next layer, as far as needed."""
        instance, relaxation = self.instance, self.relaxation
        own = options.positions[step]
        limit = self.cutoff - relaxation.bound + relaxation.margin
        lightest = partial.reduced.min()
        own = own[relaxation.reduced[own] + lightest < limit]
        filled = options.filling_costs[-1][step]
        partial = self._shortened(partial, _AT_ONCE // max(len(own), 1), filled)
        grown = partial.times(own, self.numbers[own], instance.costs[own], relaxation.reduced[own])
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
        """The cutoff in fixed point, rounded up: what reaches it is of no use."""
        if self.cutoff == np.inf:
            return 1 << 62
        return min(math.ceil(Fraction(self.cutoff) * Fraction(2) ** self.shift), 1 << 62)

    def _shortened(self, partial: Partial, count: int, filled: IntArray) -> Partial:
        """The most promising of the partial selections.

        Half of them are those with the best bounds; the others are those that come closest
        to what the bounds promise if the open layers take what is `filled` in for them, for
        there is a price on leaving budget unspent as on exceeding it.
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
        """Fill the open layers in the ways at hand, and keep what is better than the best."""
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
                return  # nothing is open any more: all ways are the same


@dataclass(frozen=True, slots=True)
class _Options:
    """The layers in the order in which they are merged, and what may still be chosen.

    `positions` are the options that could be part of a better solution than the best one
    known, by step. `least_numbers` and `least_costs` are the sums of the least values and
    costs over the layers from a step on; `fillings` are complete selections to fill open
    layers with, and their sums from a step on.
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
        """Drop the options whose imposition brings the bound to the best value known."""
        instance, relaxation = search.instance, search.relaxation
        limit = search.cutoff - relaxation.bound + relaxation.margin
        kept: NDArray[np.bool_] = relaxation.reduced < limit
        if search.best is not None:
            kept[search.best] = True
        pieces = [
            start + np.nonzero(kept[start:end])[0]
            for start, end in zip(instance.starts, instance.ends, strict=True)
        ]
        # The layers of which two options compete most closely go first, so that of later
        # ones little more than the best option can be afforded.
        second = [np.sort(relaxation.reduced[own])[1] if len(own) > 1 else -1.0 for own in pieces]
        layers = np.argsort(second, kind="stable")
        pieces = [pieces[layer] for layer in layers]
        least = np.array([search.numbers[own].min() for own in pieces])
        costs = np.array([instance.costs[own].min(axis=0) for own in pieces])
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
    """Sums over the terms from each on, with a last one of 0: (n + 1, …)."""
    sums: IntArray = np.cumsum(terms[::-1], axis=0)[::-1]
    return np.concatenate([sums, np.zeros_like(terms[:1])])


@dataclass(frozen=True, slots=True)
class Partial:
    """Partial selections: values in fixed point, costs, reduced values, and how they arose.

    `history` holds for every layer merged the parents' rows and the positions chosen.
    """

    numbers: IntArray
    costs: IntArray
    reduced: FloatArray
    history: tuple[tuple[IntArray, IntArray], ...]

    @classmethod
    def empty(cls, resources: int) -> Partial:
        """The one selection of nothing."""
        return cls(np.zeros(1, np.int64), np.zeros((1, resources), np.int64), np.zeros(1), ())

    def times(
        self, positions: IntArray, numbers: IntArray, costs: IntArray, reduced: FloatArray
    ) -> Partial:
        """Every partial selection with every one of a layer's options."""
        rows = np.repeat(np.arange(len(self.numbers)), len(positions))
        return Partial(
            (self.numbers[:, None] + numbers).ravel(),
            (self.costs[:, None] + costs).reshape(-1, costs.shape[1]),
            (self.reduced[:, None] + reduced).ravel(),
            (*self.history, (rows, np.tile(positions, len(self.numbers)))),
        )

    def at(self, rows: IntArray) -> Partial:
        """Some of the partial selections."""
        *before, (parents, positions) = self.history
        latest = (parents[rows], positions[rows])
        return Partial(self.numbers[rows], self.costs[rows], self.reduced[rows], (*before, latest))

    def traced(self, row: int) -> list[int]:
        """The positions that a partial selection consists of, by step."""
        found = []
        for parents, positions in reversed(self.history):
            found.append(int(positions[row]))
            row = int(parents[row])
        return found[::-1]
