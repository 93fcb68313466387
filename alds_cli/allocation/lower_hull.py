"""The least sum of errors plus λ times the cost, for the smallest λ that meets the budgets.

Given λ, the price of a unit of cost, the layers separate: each takes the option with the least
error + λ·cost. As λ rises from 0, each layer moves along the lower convex hull of its (cost, error)
pairs, from being kept towards its cheapest option. The λ for a budget is found by making all these
moves in order, which are finitely many: the first plan within the budget is the answer. It is what
a bisection over λ converges to.

No plan that costs as little has a smaller sum of errors. What one budget leaves over is less than
the last move saves; a plan off the hulls may use it, which `knapsack` finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation.knapsack.instance import KnapsackInstance
from alds_cli.allocation.knapsack.lagrangian import relax
from alds_cli.allocation.layer_options import Allocation, InfeasibleError, LayerOptions
from alds_cli.records import FloatArray


def lagrangian(layers: Sequence[LayerOptions], budget: int) -> Allocation:
    """Minimise the sum of the layers' errors plus a price times the cost, within one budget.

    Args:
        layers: the options of every layer, with costs (n, 1); errors must not be negative.
        budget: the most that the chosen options may cost together.

    Returns:
        The allocation; its `lower_bound` is that of the Lagrangian relaxation.

    Raises:
        InfeasibleError: even the cheapest options cost more.
    """
    if not layers:
        return Allocation([], 0.0, 0.0)
    costs = [options.costs[:, 0].astype(np.float64) for options in layers]
    chosen = least_lagrangian(layers, costs, [budget])
    objective = fsum(options.errors[at] for options, at in zip(layers, chosen, strict=True))
    bound = relax(KnapsackInstance.of(layers, [budget])).bound
    return Allocation(chosen, objective, min(max(bound, 0.0), objective))


def least_lagrangian(
    layers: Sequence[LayerOptions], costs: Sequence[FloatArray], budgets: Sequence[int]
) -> list[int]:
    """Return the options with the least Σ error + λ·cost for the smallest λ that meets the budgets.

    Where several layers move at the same λ, they do so in their order and only as far as needed;
    every such plan is a minimiser.

    Args:
        layers: the options of every layer; their errors are added up.
        costs: for every layer, the costs (n,) that λ is the price of.
        budgets: the most that the options' own `costs` may add up to.

    Returns:
        The index of an option for every layer.

    Raises:
        InfeasibleError: no λ meets the budgets.
    """
    paths = [_hull(options.errors, cost) for options, cost in zip(layers, costs, strict=True)]
    chosen = [int(path.indices[0]) for path in paths]
    spent = np.sum([options.costs[at] for options, at in zip(layers, chosen, strict=True)], axis=0)
    allowed = np.asarray(budgets)
    moves = sorted(
        (float(price), layer, step)
        for layer, path in enumerate(paths)
        for step, price in enumerate(path.prices)
    )
    for _, layer, step in moves:
        if np.all(spent <= allowed):
            break
        after = int(paths[layer].indices[step + 1])
        spent = spent + layers[layer].costs[after] - layers[layer].costs[chosen[layer]]
        chosen[layer] = after
    if not np.all(spent <= allowed):
        raise InfeasibleError("even the cheapest options exceed the budget")
    return chosen


@dataclass(frozen=True, slots=True)
class _Hull:
    """The options on the lower convex hull, from the least error to the least cost.

    `prices` (n - 1,) are the rising λ at which one option gives way to the next.
    """

    indices: NDArray[np.int64]
    prices: FloatArray


def _hull(errors: FloatArray, costs: FloatArray) -> _Hull:
    """Return the lower left hull of points (cost, error)."""
    # Least error first, the cheapest of equals; then only options cheaper than all before.
    order = np.lexsort((costs, errors))
    cheapest = np.minimum.accumulate(costs[order])
    fresh = np.concatenate([[True], costs[order][1:] < cheapest[:-1]])
    corners: list[int] = []
    prices: list[float] = []
    for point in order[fresh].tolist():
        price = _price(errors, costs, corners, point)
        while prices and price <= prices[-1]:
            corners.pop()
            prices.pop()
            price = _price(errors, costs, corners, point)
        if corners:
            prices.append(price)
        corners.append(point)
    return _Hull(np.array(corners), np.array(prices))


def _price(errors: FloatArray, costs: FloatArray, corners: Sequence[int], point: int) -> float:
    """Return the λ at which the last corner and a cheaper point are equally good."""
    if not corners:
        return 0.0
    last = corners[-1]
    return float((errors[point] - errors[last]) / (costs[last] - costs[point]))
