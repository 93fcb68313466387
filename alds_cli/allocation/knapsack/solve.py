"""The least sum of the layers' errors under budgets, with a certified gap.

This is a multiple-choice knapsack (Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, chapter
11). Dominated options are dropped; prices on the budgets give a lower bound and a first solution;
options that the bound rules out are dropped; merging the rest closes the gap or narrows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alds_cli.allocation.knapsack.dynamic_programming import DynamicProgram
from alds_cli.allocation.knapsack.instance import KnapsackInstance
from alds_cli.allocation.knapsack.lagrangian import relax
from alds_cli.allocation.knapsack.repair import best_of
from alds_cli.allocation.layer_options import (
    Allocation,
    InfeasibleError,
    LayerOptions,
    first_of_equals,
)
from alds_cli.records import IntArray


def knapsack(layers: Sequence[LayerOptions], budgets: Sequence[int]) -> Allocation:
    """Minimise the sum of the layers' errors, which must not be negative, within all budgets.

    Args:
        layers: the options of every layer, with costs (n, D).
        budgets: for each of the D resources, the most that the chosen options may cost together.

    Returns:
        The best allocation found. Its `lower_bound` equals the sum where that is proven to be the
        optimum, as it is for all but large and tightly balanced problems.

    Raises:
        InfeasibleError: no allocation within the budgets exists, or none was found for several
            budgets.
    """
    if not layers:
        return Allocation([], 0.0, 0.0)
    instance = KnapsackInstance.of(layers, budgets)
    positions, lower_bound = solve(instance)
    if positions is None:
        raise InfeasibleError(unmet(lower_bound))
    chosen = [
        first_of_equals(options, int(index))
        for options, index in zip(layers, instance.indices[positions], strict=True)
    ]
    return Allocation(chosen, instance.value(positions), lower_bound)


def solve(instance: KnapsackInstance, enough: float | None = None) -> tuple[IntArray | None, float]:
    """Return the best selection found, or None, and a lower bound (infinite if there is none).

    Args:
        instance: the options and budgets.
        enough: if given, the question is only whether the sum can be at most this much: the
            search ends with the first such selection, or with a bound above it.
    """
    relaxation = relax(instance, np.inf if enough is None else enough)
    if relaxation.bound > (np.finfo(np.float64).max if enough is None else enough):
        return None, relaxation.bound
    start = best_of(instance, relaxation.selections, relaxation.prices)
    search = DynamicProgram(instance, relaxation, start, enough)
    search.run()
    return search.best, search.lower_bound


def unmet(lower_bound: float) -> str:
    """Return the reason why there is no allocation, in words."""
    if lower_bound == np.inf:
        return "even the cheapest options exceed the budget"
    return "no allocation within all budgets was found"
