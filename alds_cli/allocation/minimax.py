"""The exact solution of the paper's allocation problem, by bisection.

Minimise max_ℓ ε^ℓ over all choices subject to a budget (Liebenwein et al., NeurIPS 2021,
Eq. 8). At a given level the layers separate: each takes its cheapest option whose error is at
most the level, and the total cost falls as the level rises. So a search over the distinct errors
finds the global optimum. The rest of the budget goes to the next worst layers: the result is the
lexicographic minimum of the errors sorted from worst to best.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from alds_cli.allocation.layer_options import (
    Allocation,
    Frontiers,
    LayerOptions,
    first_of_equals,
    frontier,
)
from alds_cli.allocation.minimax_multi import minimax_within_all, settle_ties
from alds_cli.records import IntArray


def minimax(layers: Sequence[LayerOptions], budgets: Sequence[int]) -> Allocation:
    """Minimise the maximum of the layers' errors within the budgets.

    For one budget, the result is the lexicographic minimum of the errors sorted from worst to
    best. For several, which must all hold, see `minimax_within_all`.

    Args:
        layers: the options of every layer, with costs (n, D).
        budgets: for each of the D resources, the most that the chosen options may cost together.

    Raises:
        InfeasibleError: no allocation within the budgets exists, or none was found for several
            budgets.
    """
    if not layers:
        return Allocation([], 0.0, 0.0)
    if len(budgets) > 1:
        return minimax_within_all(layers, budgets)
    joined = Frontiers.join([frontier(options) for options in layers])
    level = joined.lowest_level(int(budgets[0]))
    positions = _spend_the_rest(joined, joined.cheapest(level), int(budgets[0]))
    chosen = [
        first_of_equals(options, int(index))
        for options, index in zip(layers, joined.indices[positions], strict=True)
    ]
    objective = float(joined.errors[positions].max())
    return Allocation(chosen, objective, objective)


def _spend_the_rest(joined: Frontiers, start: IntArray, budget: int) -> list[int]:
    """Improve the worst layer repeatedly; a layer that cannot improve is settled.

    Where several layers share the worst error and the budget improves only some of them, the
    right ones depend on all later steps, and `settle_ties` finds them.
    """
    slack = budget - int(joined.costs[start].sum())
    positions: list[int] = start.tolist()
    heap = [(-error, layer) for layer, error in enumerate(joined.errors[start].tolist())]
    heapq.heapify(heap)
    while heap and heap[0][0] < 0:
        worst = heap[0][0]
        tied = []
        while heap and heap[0][0] == worst:
            tied.append(heapq.heappop(heap)[1])
        steps = [_step_cost(joined, layer, positions[layer]) for layer in tied]
        if sum(steps) <= slack:
            slack -= int(sum(steps))
            for layer in tied:
                positions[layer] += 1
                heapq.heappush(heap, (-float(joined.errors[positions[layer]]), layer))
        elif len(tied) > 1 and min(steps) <= slack:
            return _settled(joined, positions, [*tied, *(layer for _, layer in heap)], slack)
    return positions


def _step_cost(joined: Frontiers, layer: int, at: int) -> float:
    """Return the additional cost of the next better option; infinite where there is none."""
    return float(joined.costs[at + 1] - joined.costs[at]) if at + 1 < joined.ends[layer] else np.inf


def _settled(joined: Frontiers, positions: list[int], layers: list[int], slack: int) -> list[int]:
    """Return the positions after the ties among the open layers are settled."""
    layers = sorted(layers)
    starts = [int(joined.starts[layer]) for layer in layers]
    standing = [positions[layer] - start for layer, start in zip(layers, starts, strict=True)]
    found = settle_ties([joined.of(layer) for layer in layers], standing, slack)
    for layer, start, at in zip(layers, starts, found, strict=True):
        positions[layer] = start + at
    return positions
