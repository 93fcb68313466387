"""The least maximum of the errors where several budgets must hold at once.

At a level each layer offers the options whose error is at most the level; whether some
choice of them keeps all budgets is a knapsack again: minimise what one resource is taken
under the budgets of the others, and compare with the budget of that one. Both answers
come with a proof: a selection, or a bound by multipliers on the budgets (Lagrange). Where
neither is found a level stays open, and the gap says so.
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
    """The least maximum of the layers' errors within several budgets, and a bound on it.

    What the budgets leave is spent on the worst layer again and again, on the better
    option that takes the smallest shares of the budgets.

    Args:
        layers: the options of every layer, at least one, with costs (n, D).
        budgets: for each of the D resources, what the chosen options may take together.

    Raises:
        InfeasibleError: no allocation within the budgets exists, or none was found.
    """
    kept = [undominated_options(options.errors, options.costs) for options in layers]
    search = _LevelSearch(
        [
            (options.errors[own], options.costs[own], own)
            for options, own in zip(layers, kept, strict=True)
        ],
        budgets,
    )
    levels = _levels(layers, budgets)
    first_open, found = search.narrow(levels)
    positions = _spend_the_rest(search.pieces, found, search.budgets)
    picked = list(zip(search.pieces, positions, strict=True))
    chosen = [
        first_of_equals(options, int(own[at]))
        for options, ((_, _, own), at) in zip(layers, picked, strict=True)
    ]
    objective = max(float(errors[at]) for (errors, _, _), at in picked)
    return Allocation(chosen, objective, min(float(levels[first_open]), objective))


Piece = tuple[FloatArray, IntArray, IntArray]
"""A layer's undominated options: errors (n,), costs (n, D) and their indices (n,)."""


def _levels(layers: Sequence[LayerOptions], budgets: Sequence[int]) -> FloatArray:
    """The distinct errors, ascending, from the level that the budgets one by one allow.

    Raises:
        InfeasibleError: even the cheapest options exceed one of the budgets.
    """
    floor = 0.0
    for resource, budget in enumerate(budgets):
        alone = [
            LayerOptions(own.name, own.costs[:, [resource]], own.errors, own.choices)
            for own in layers
        ]
        joined = Frontiers.join([frontier(options) for options in alone])
        floor = max(floor, joined.lowest_level(int(budget)))
    levels = np.unique(np.concatenate([own.errors for own in layers]))
    return levels[levels >= floor]


@dataclass(slots=True)
class _LevelSearch:
    """What is known of the levels: selections for some, proof that there is none for others.

    `found` holds by level the position of every layer's option, or None, and `refuted`
    whether it is proven that there is no selection.
    """

    pieces: list[Piece]
    budgets: Sequence[int]
    found: dict[int, list[int] | None] = field(default_factory=dict)
    refuted: dict[int, bool] = field(default_factory=dict)

    def narrow(self, levels: FloatArray) -> tuple[int, list[int]]:
        """The first level that is not refuted, and the selection at the first one that has one.

        Raises:
            ValueError: not even the last level has one.
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
    """The options worth having within a level, with the first resource as their value."""
    errors, costs, _ = piece
    (within,) = np.nonzero(errors <= level)
    own = within[undominated(costs[within, 0], costs[within, 1:])]
    return costs[own, 0].astype(np.float64), costs[own, 1:], own


def _spend_the_rest(
    pieces: Sequence[Piece], positions: Sequence[int], budgets: Sequence[int]
) -> list[int]:
    """Improve the worst layer again and again; one that cannot improve is settled."""
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
    """Finish the lexicographic minimum of layers that are still open.

    From the worst error down it is settled which errors there must be and how often each.
    `slots` are those of which it is not yet known which layers have them. With those, a
    level is feasible if the slots can be given to layers such that the rest stays within
    the level and the budget: an assignment problem, solved exactly. Where an error is
    needed as often as there are layers that can have it, these have it.

    Args:
        group: the frontiers of the open layers.
        positions: where each stands; none needs to be worse in the end than the worst now.
        slack: what is left of the budget at these positions.

    Returns:
        The positions of the lexicographic minimum.
    """
    search = _TieSearch.at(group, positions, slack)
    errors = np.array([float(own.errors[at]) for own, at in zip(group, positions, strict=True)])
    levels = np.unique(np.concatenate([own.errors for own in group]))[::-1].tolist()
    levels = [level for level in levels if level <= errors.max()]
    while len(search.slots) < len(search.open):
        first = search.first_beyond(levels)
        level, levels = levels[first - 1], levels[first:]
        search.settle(level, levels[0] if levels else None)
    for layer, limit in search.shares():
        search.settled[layer] = group[layer].cheapest(limit)
    return search.settled


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The first of 1 … count - 1 for which a condition that stays true holds; else count."""
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
    """What is settled: `open` layers are to share the `budget`, some of them by `slots`."""

    group: Sequence[Frontier]
    joined: Frontiers
    open: IntArray
    budget: int
    settled: list[int]
    slots: list[float] = field(default_factory=list)
    costs: dict[float, IntArray] = field(default_factory=dict)

    @classmethod
    def at(cls, group: Sequence[Frontier], positions: Sequence[int], slack: int) -> _TieSearch:
        """Before anything is settled."""
        spent = sum(int(own.costs[at]) for own, at in zip(group, positions, strict=True))
        layers = np.arange(len(group))
        return cls(group, Frontiers.join(group), layers, slack + spent, list(positions))

    def fits(self, level: float, extra: Sequence[float] = ()) -> bool:
        """Whether the rest can stay within a level, given the slots and some more."""
        return self._assigned([*self.slots, *extra], level)[0] <= self.budget

    def first_beyond(self, levels: Sequence[float]) -> int:
        """The number of descending levels that are feasible, of which the first one is."""
        return _first(len(levels), lambda at: not self.fits(levels[at]))

    def settle(self, level: float, below: float | None) -> None:
        """Find how many layers must have an error, given that the rest needs no larger one.

        Args:
            level: the error.
            below: the next smaller one that any layer has, if there is one.
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
        """The open layers, each with the slot that it is given."""
        if not self.slots:
            return []
        _, limits = self._assigned(self.slots, self.slots[-1])
        return list(zip(self.open.tolist(), limits, strict=True))

    def _costs(self, level: float) -> IntArray:
        """What it costs the open layers to stay within a level, more than all if they cannot."""
        if level not in self.costs:
            at = self.joined.cheapest(level)
            reached: NDArray[np.bool_] = at < self.joined.ends
            within = self.joined.costs[np.where(reached, at, 0)]
            self.costs[level] = np.where(reached, within, self.budget + 1)
        return self.costs[level][self.open]

    def _assigned(self, slots: Sequence[float], level: float) -> tuple[int, list[float]]:
        """The least total cost with each slot given to one layer and the others at `level`."""
        at_level = self._costs(level)
        limits = [level] * len(at_level)
        if not slots:
            return int(at_level.sum()), limits
        if slots[0] == slots[-1]:  # they all are the same: to the layers that save most
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
