"""The exact solution of the paper's allocation problem, by bisection.

Minimise max_ℓ ε^ℓ over all choices subject to a budget (Liebenwein et al., NeurIPS 2021,
Eq. 8). Given a level, layers separate: each takes its cheapest option whose error is at
most the level, and the total cost falls as the level rises. So bisection over the
distinct errors finds the global optimum. What budget is left goes to the next worst
layers: the result is the lexicographic minimum of the errors sorted from worst to best.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from alds_cli.allocation.frontiers import Frontier, frontier
from alds_cli.allocation.options import LayerOptions
from alds_cli.records import FloatArray


def minimax(layers: Sequence[LayerOptions], budget: int) -> list[int]:
    """The lexicographically minimal errors that a budget allows.

    Args:
        layers: the options of every layer.
        budget: what the chosen options' costs may add up to.

    Returns:
        For every layer the index of its option.

    Raises:
        ValueError: even the cheapest options exceed the budget.
    """
    frontiers = [frontier(options) for options in layers]
    level = lowest_level(frontiers, budget)
    positions = _spend_the_rest(frontiers, [f.cheapest(level) for f in frontiers], budget)
    return [int(f.indices[at]) for f, at in zip(frontiers, positions, strict=True)]


def lowest_level(frontiers: Sequence[Frontier], budget: int) -> float:
    """The smallest error that every layer can stay within at that budget.

    Raises:
        ValueError: even the cheapest options exceed the budget.
    """
    if sum(int(f.costs[0]) for f in frontiers) > budget:
        raise ValueError("even the cheapest options exceed the budget")
    return _bisect(_levels(frontiers), lambda level: _total(frontiers, level) <= budget)


def _levels(frontiers: Sequence[Frontier]) -> FloatArray:
    """The levels at which anything changes, descending to 0."""
    return np.unique(np.concatenate([np.zeros(1), *(f.errors for f in frontiers)]))[::-1]


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


def _total(frontiers: Sequence[Frontier], level: float) -> int:
    return sum(int(f.costs[f.cheapest(level)]) for f in frontiers)


def _spend_the_rest(frontiers: Sequence[Frontier], positions: list[int], budget: int) -> list[int]:
    """Improve the worst layer again and again; one that cannot improve is settled.

    Where several layers share the worst error and the budget improves only some of them,
    which to leave depends on all that follows: that is `_settle_ties`' business.
    """
    slack = budget - sum(int(f.costs[at]) for f, at in zip(frontiers, positions, strict=True))
    heap = [
        (-float(f.errors[at]), index)
        for index, (f, at) in enumerate(zip(frontiers, positions, strict=True))
    ]
    heapq.heapify(heap)
    while heap and heap[0][0] < 0:
        worst = heap[0][0]
        tied = []
        while heap and heap[0][0] == worst:
            tied.append(heapq.heappop(heap)[1])
        steps = {index: _step_cost(frontiers[index], positions[index]) for index in tied}
        if sum(steps.values()) <= slack:
            slack -= int(sum(steps.values()))
            for index in tied:
                positions[index] += 1
                heapq.heappush(heap, (-float(frontiers[index].errors[positions[index]]), index))
        elif len(tied) > 1 and min(steps.values()) <= slack:
            open_layers = sorted([*tied, *(index for _, index in heap)])
            return _settle_ties(frontiers, positions, open_layers, slack)
    return positions


def _step_cost(layer: Frontier, at: int) -> float:
    """What the next better option costs more; infinite where there is none."""
    return float(layer.costs[at + 1] - layer.costs[at]) if at + 1 < len(layer.costs) else np.inf


def _settle_ties(
    frontiers: Sequence[Frontier], positions: list[int], open_layers: list[int], slack: int
) -> list[int]:
    """Finish the lexicographic minimum when layers tie.

    `slots` are errors of which it is known that one layer each must have them, though not
    yet which. With those, a level is feasible if the slots can be given to layers such
    that the rest stays within the level and the budget: an assignment problem, solved
    exactly. A level that only one open layer can take settles that layer at once.
    """
    remaining = list(open_layers)
    budget = slack + sum(int(frontiers[index].costs[positions[index]]) for index in remaining)
    slots: list[float] = []
    while len(slots) < len(remaining):
        group = [frontiers[index] for index in remaining]
        levels = _levels(group)
        ceiling = max(float(f.errors[positions[i]]) for f, i in zip(group, remaining, strict=True))
        levels = levels[levels <= (slots[-1] if slots else ceiling)]
        level = _bisect(levels, partial(_fits, group, slots, budget))
        takers = [index for index in remaining if level in frontiers[index].errors]
        if len(takers) == 1:
            index = takers[0]
            positions[index] = frontiers[index].cheapest(level)
            budget -= int(frontiers[index].costs[positions[index]])
            remaining.remove(index)
        else:
            slots.append(level)
    _, given = _assign([frontiers[index] for index in remaining], slots, 0.0)
    for index, level in zip(remaining, given, strict=True):
        positions[index] = frontiers[index].cheapest(level)
    return positions


def _fits(group: Sequence[Frontier], slots: Sequence[float], budget: int, level: float) -> bool:
    return _assign(group, slots, level)[0] <= budget


def _assign(
    group: Sequence[Frontier], slots: Sequence[float], level: float
) -> tuple[int, list[float]]:
    """The least total cost with each slot given to one layer and the others at `level`."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - slow to import, rarely needed

    limits = [level] * len(group)
    at_level = np.array([f.costs[f.cheapest(level)] for f in group], dtype=np.int64)
    if not slots:
        return int(at_level.sum()), limits
    at_slot = np.array([[f.costs[f.cheapest(slot)] for f in group] for slot in slots])
    rows, columns = linear_sum_assignment(at_slot - at_level)
    for row, column in zip(rows, columns, strict=True):
        limits[column] = slots[row]
    return int(at_level.sum() + (at_slot - at_level)[rows, columns].sum()), limits
