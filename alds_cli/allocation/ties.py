"""The lexicographic minimum where layers share an error and not all can improve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from alds_cli.allocation.frontiers import Frontier
from alds_cli.records import FloatArray


def settle_ties(group: Sequence[Frontier], positions: Sequence[int], slack: int) -> list[int]:
    """Finish the lexicographic minimum of layers that are still open.

    `slots` are errors of which it is known that one layer each must have them, though not
    yet which. With those, a level is feasible if the slots can be given to layers such
    that the rest stays within the level and the budget: an assignment problem, solved
    exactly. A level that only one open layer can take settles that layer at once.

    Args:
        group: the frontiers of the open layers.
        positions: where each stands; none needs to be worse in the end than the worst now.
        slack: what is left of the budget at these positions.

    Returns:
        The positions of the lexicographic minimum.
    """
    settled = list(positions)
    remaining = list(range(len(group)))
    budget = slack + sum(int(own.costs[at]) for own, at in zip(group, positions, strict=True))
    ceiling = max(float(own.errors[at]) for own, at in zip(group, positions, strict=True))
    slots: list[float] = []
    while len(slots) < len(remaining):
        own = [group[index] for index in remaining]
        levels = _levels(own)
        levels = levels[levels <= (slots[-1] if slots else ceiling)]
        level = _bisect(levels, partial(_fits, own, slots, budget))
        takers = [index for index in remaining if level in group[index].errors]
        if len(takers) == 1:
            index = takers[0]
            settled[index] = group[index].cheapest(level)
            budget -= int(group[index].costs[settled[index]])
            remaining.remove(index)
        else:
            slots.append(level)
    own = [group[index] for index in remaining]
    _, given = _assign(own, slots, slots[-1] if slots else 0.0, budget + 1)
    for index, level in zip(remaining, given, strict=True):
        settled[index] = group[index].cheapest(level)
    return settled


def _levels(group: Sequence[Frontier]) -> FloatArray:
    """The levels at which anything changes, descending."""
    return np.unique(np.concatenate([own.errors for own in group]))[::-1]


def _bisect(levels: FloatArray, feasible: Callable[[float], bool]) -> float:
    """The last of descending levels that is feasible; the first one is known to be."""
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if feasible(float(levels[middle])):
            low = middle
        else:
            high = middle - 1
    return float(levels[low])


def _fits(group: Sequence[Frontier], slots: Sequence[float], budget: int, level: float) -> bool:
    return _assign(group, slots, level, budget + 1)[0] <= budget


def _assign(
    group: Sequence[Frontier], slots: Sequence[float], level: float, unreachable: int
) -> tuple[int, list[float]]:
    """The least total cost with each slot given to one layer and the others at `level`.

    An error that a layer cannot get down to costs it `unreachable`.
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - slow to import, rarely needed

    limits = [level] * len(group)
    at_level = np.array([_cost(own, level, unreachable) for own in group], dtype=np.int64)
    if not slots:
        return int(at_level.sum()), limits
    at_slot = np.array([[_cost(own, slot, unreachable) for own in group] for slot in slots])
    rows, columns = linear_sum_assignment(at_slot - at_level)
    for row, column in zip(rows, columns, strict=True):
        limits[column] = slots[row]
    return int(at_level.sum() + (at_slot - at_level)[rows, columns].sum()), limits


def _cost(own: Frontier, level: float, unreachable: int) -> int:
    at = own.cheapest(level)
    return int(own.costs[at]) if at < len(own.costs) else unreachable
