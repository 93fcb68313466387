"""The least maximum of the errors where several budgets must hold at once.

At a level each layer offers the options whose error is at most the level. Whether some choice of
them keeps within all budgets is a knapsack problem again: minimise the cost in one resource under
the budgets of the others, and compare it with the budget of that one. Either answer comes with a
proof: a selection, or a bound by multipliers on the budgets (Lagrange). Where neither is found the
level stays open, and the gap shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation.knapsack.instance import KnapsackInstance
from alds_cli.allocation.knapsack.solve import solve, unmet
from alds_cli.allocation.layer_options import (
    Allocation,
    Frontier,
    Frontiers,
    InfeasibleError,
    LayerOptions,
    first_of_equals,
    frontier,
    undominated,
    undominated_options,
)
from alds_cli.records import FloatArray, IntArray


def minimax_within_all(layers: Sequence[LayerOptions], budgets: Sequence[int]) -> Allocation:
    """Minimise the maximum of the layers' errors within several budgets, with a lower bound.

    The rest of the budgets is spent on the worst layer, repeatedly, on the better option that
    takes the smallest shares of the budgets.

    Args:
        layers: the options of every layer, at least one, with costs (n, D).
        budgets: for each of the D resources, the most that the chosen options may cost together.

    Raises:
        InfeasibleError: no allocation within the budgets exists, or none was found.
    """
    kept = [undominated_options(options.errors, options.costs) for options in layers]
    search = _LevelSearch(
        [
            (options.errors[indices], options.costs[indices], indices)
            for options, indices in zip(layers, kept, strict=True)
        ],
        budgets,
    )
    levels = _levels(layers, budgets)
    first_open, found = search.narrow(levels)
    positions = _spend_the_rest(search.pieces, found, search.budgets)
    picked = list(zip(search.pieces, positions, strict=True))
    chosen = [
        first_of_equals(options, int(indices[at]))
        for options, ((_, _, indices), at) in zip(layers, picked, strict=True)
    ]
    objective = max(float(errors[at]) for (errors, _, _), at in picked)
    return Allocation(chosen, objective, min(float(levels[first_open]), objective))


Piece = tuple[FloatArray, IntArray, IntArray]
"""A layer's undominated options: errors (n,), costs (n, D) and their indices (n,)."""


def _levels(layers: Sequence[LayerOptions], budgets: Sequence[int]) -> FloatArray:
    """Return the distinct errors, ascending, from the lowest level that each budget alone allows.

    Raises:
        InfeasibleError: even the cheapest options exceed one of the budgets.
    """
    floor = 0.0
    for resource, budget in enumerate(budgets):
        alone = [
            LayerOptions(layer.name, layer.costs[:, [resource]], layer.errors, layer.choices)
            for layer in layers
        ]
        joined = Frontiers.join([frontier(options) for options in alone])
        floor = max(floor, joined.lowest_level(int(budget)))
    levels = np.unique(np.concatenate([options.errors for options in layers]))
    return levels[levels >= floor]


@dataclass(slots=True)
class _LevelSearch:
    """The knowledge about the levels: selections for some, proofs that there is none for others.

    `found` holds, by level, the position of every layer's option, or None; `refuted` tells
    whether it is proven that there is no selection.
    """

    pieces: list[Piece]
    budgets: Sequence[int]
    found: dict[int, list[int] | None] = field(default_factory=dict)
    refuted: dict[int, bool] = field(default_factory=dict)

    def narrow(self, levels: FloatArray) -> tuple[int, list[int]]:
        """Return the first level that is not refuted, and the selection at the first that has one.

        Raises:
            InfeasibleError: not even the last level has one.
        """
        low, high = 0, len(levels) - 1
        self._try(high, levels)
        while low < high:
            middle = (low + high) // 2
            self._try(middle, levels)
            if self.found[middle] is not None:
                high = middle
            else:
                low = middle + 1
        selection = self.found[high] if high in self.found else self._tried(high, levels)
        if selection is None:
            raise InfeasibleError(unmet(np.inf if self.refuted[high] else 0.0))
        low = 1 + max((at for at, refuted in self.refuted.items() if refuted), default=-1)
        while low < high:
            middle = (low + high) // 2
            self._try(middle, levels)
            if self.refuted[middle]:
                low = middle + 1
            else:
                high = middle
        return low, selection

    def _tried(self, at: int, levels: FloatArray) -> list[int] | None:
        self._try(at, levels)
        return self.found[at]

    def _try(self, at: int, levels: FloatArray) -> None:
        """Look for a selection at a level, or for a proof that there is none."""
        if at in self.found:
            return
        offered = [_offered(piece, float(levels[at])) for piece in self.pieces]
        instance = KnapsackInstance.join(offered, self.budgets[1:])
        limit = float(self.budgets[0])
        positions, lower_bound = solve(instance, limit)
        good = positions is not None and instance.value(positions) <= limit
        self.found[at] = instance.indices[positions].tolist() if good else None
        self.refuted[at] = lower_bound > limit


def _offered(piece: Piece, level: float) -> Piece:
    """Return the undominated options within a level, with the first resource as their value."""
    errors, costs, _ = piece
    (within,) = np.nonzero(errors <= level)
    kept = within[undominated(costs[within, 0], costs[within, 1:])]
    return costs[kept, 0].astype(np.float64), costs[kept, 1:], kept


def _spend_the_rest(
    pieces: Sequence[Piece], positions: Sequence[int], budgets: Sequence[int]
) -> list[int]:
    """Improve the worst layer repeatedly; a layer that cannot improve is settled."""
    positions = list(positions)
    scale = np.maximum(np.array(budgets, dtype=np.int64), 1)
    taken = np.array([costs[at] for (_, costs, _), at in zip(pieces, positions, strict=True)])
    slack = np.array(budgets, dtype=np.int64) - taken.sum(axis=0)
    unsettled = set(range(len(pieces)))
    while unsettled:
        worst = max(unsettled, key=lambda layer: (pieces[layer][0][positions[layer]], -layer))
        errors, costs, _ = pieces[worst]
        extra = costs - costs[positions[worst]]
        better = (errors < errors[positions[worst]]) & np.all(extra <= slack, axis=1)
        (candidates,) = np.nonzero(better)
        if not len(candidates):
            unsettled.remove(worst)
            continue
        shares = (extra[candidates] / scale).sum(axis=1)
        positions[worst] = int(candidates[np.argmin(shares)])
        slack = slack - extra[positions[worst]]
    return positions


def settle_ties(group: Sequence[Frontier], positions: Sequence[int], slack: int) -> list[int]:
    """Find the lexicographic minimum over the layers that are still open.

    The errors that must occur, and how often each, are settled from the worst one down. `slots`
    are errors of which it is not yet known which layers have them. Given the slots, a level is
    feasible if the slots can be assigned to layers such that the others stay within the level and
    all stay within the budget; this assignment problem is solved exactly. Where an error must
    occur as often as there are layers that can have it, these layers get it.

    Args:
        group: the frontiers of the open layers.
        positions: the current position of each; none has to become worse than the worst now.
        slack: the budget that is left at these positions.

    Returns:
        The positions of the lexicographic minimum.
    """
    search = _TieSearch.at(group, positions, slack)
    errors = np.array(
        [
            float(layer_frontier.errors[at])
            for layer_frontier, at in zip(group, positions, strict=True)
        ]
    )
    levels = np.unique(np.concatenate([layer_frontier.errors for layer_frontier in group]))[
        ::-1
    ].tolist()
    levels = [level for level in levels if level <= errors.max()]
    while len(search.slots) < len(search.open):
        first = search.first_beyond(levels)
        level, levels = levels[first - 1], levels[first:]
        search.settle(level, levels[0] if levels else None)
    for layer, limit in search.shares():
        search.settled[layer] = group[layer].cheapest(limit)
    return search.settled


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """Return the first of 1 … count - 1 at which a monotone condition holds; else count."""
    low, high = 1, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(slots=True)
class _TieSearch:
    """The state of a tie: the `open` layers share the `budget`, some of them by `slots`."""

    group: Sequence[Frontier]
    joined: Frontiers
    open: IntArray
    budget: int
    settled: list[int]
    slots: list[float] = field(default_factory=list)
    costs: dict[float, IntArray] = field(default_factory=dict)

    @classmethod
    def at(cls, group: Sequence[Frontier], positions: Sequence[int], slack: int) -> _TieSearch:
        """Return the state before anything is settled."""
        spent = sum(
            int(layer_frontier.costs[at])
            for layer_frontier, at in zip(group, positions, strict=True)
        )
        layers = np.arange(len(group))
        return cls(group, Frontiers.join(group), layers, slack + spent, list(positions))

    def fits(self, level: float, extra: Sequence[float] = ()) -> bool:
        """Return whether the other layers can keep within a level, given the slots and `extra`."""
        return self._assigned([*self.slots, *extra], level)[0] <= self.budget

    def first_beyond(self, levels: Sequence[float]) -> int:
        """Return how many of the descending levels are feasible; the first must be."""
        return _first(len(levels), lambda at: not self.fits(levels[at]))

    def settle(self, level: float, below: float | None) -> None:
        """Find how many layers must have an error, given that no other needs a larger one.

        Args:
            level: the error.
            below: the next smaller error that any layer has, or None.
        """
        rest = len(self.open) - len(self.slots)
        needed = rest
        if below is not None:
            needed = _first(rest, lambda count: self.fits(below, [level] * count))
        takers = [int(layer) for layer in self.open if level in self.group[layer].errors]
        if len(takers) > needed:
            self.slots += [level] * needed
            return
        for layer in takers:
            self.settled[layer] = self.group[layer].cheapest(level)
            self.budget -= int(self.group[layer].costs[self.settled[layer]])
        self.open = np.setdiff1d(self.open, takers)

    def shares(self) -> list[tuple[int, float]]:
        """Return the open layers, each with the slot assigned to it."""
        if not self.slots:
            return []
        _, limits = self._assigned(self.slots, self.slots[-1])
        return list(zip(self.open.tolist(), limits, strict=True))

    def _costs(self, level: float) -> IntArray:
        """Return the open layers' costs within a level, above the budget where it is impossible."""
        if level not in self.costs:
            at = self.joined.cheapest(level)
            reached: NDArray[np.bool_] = at < self.joined.ends
            within = self.joined.costs[np.where(reached, at, 0)]
            self.costs[level] = np.where(reached, within, self.budget + 1)
        return self.costs[level][self.open]

    def _assigned(self, slots: Sequence[float], level: float) -> tuple[int, list[float]]:
        """Return the least cost with each slot assigned to one layer and the others at `level`."""
        at_level = self._costs(level)
        limits = [level] * len(at_level)
        if not slots:
            return int(at_level.sum()), limits
        if slots[0] == slots[-1]:  # all slots are equal and go to the layers that save most
            changes = self._costs(slots[0]) - at_level
            rows, columns = np.zeros(len(slots), np.int64), np.argsort(changes, kind="stable")
            columns = columns[: len(slots)]
            total = int(at_level.sum() + changes[columns].sum())
        else:
            from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - slow to import

            table = np.array([self._costs(slot) for slot in slots]) - at_level
            rows, columns = linear_sum_assignment(table)
            total = int(at_level.sum() + table[rows, columns].sum())
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            limits[column] = slots[row]
        return total, limits
