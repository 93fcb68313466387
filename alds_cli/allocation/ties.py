"""The lexicographic minimum where layers share an error and not all can improve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation.frontiers import Frontier, Frontiers
from alds_cli.records import IntArray


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
