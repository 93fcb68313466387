"""Solutions within the budgets, made from selections that exceed them or leave some unspent."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from alds_cli.allocation.knapsack.instance import KnapsackInstance, priced
from alds_cli.records import FloatArray, IntArray

_STARTS = 3
"""The number of selections within the budgets to improve, and of others to mend."""


def best_of(
    instance: KnapsackInstance, selections: Sequence[IntArray], prices: FloatArray
) -> IntArray | None:
    """Return the best solution made from the most promising selections; None if there is none.

    Args:
        instance: the options and budgets.
        selections: each with a position for every layer, within the budgets or not; the last
            ones are nearest to the best prices.
        prices: the price of a unit of each resource, (D,).
    """
    within = [selection for selection in selections if instance.fits(selection)]
    within = sorted(within, key=instance.value)[:_STARTS]
    if not within or len(instance.budgets) > 1:
        beyond = [selection for selection in reversed(selections) if not instance.fits(selection)]
        mended = (_mended(instance, selection) for selection in beyond)
        within += list(
            islice((selection for selection in mended if selection is not None), _STARTS)
        )
    improved = [_improved(instance, selection, prices) for selection in within]
    return min(improved, key=instance.value, default=None)


def _mended(instance: KnapsackInstance, selection: IntArray) -> IntArray | None:
    """Change one layer after another, at the least value per excess removed, until all fits."""
    layer_of, scale = instance.layer_of, np.maximum(instance.budgets, 1)
    positions = selection.copy()
    for _ in range(4 * len(positions)):
        over = instance.cost(positions) - instance.budgets
        if np.all(over <= 0):
            return positions
        current = positions[layer_of]
        left = np.maximum(over + instance.costs - instance.costs[current], 0) / scale
        taken = (np.maximum(over, 0) / scale).sum() - left.sum(axis=1)
        (useful,) = np.nonzero(taken > 0)
        if not len(useful):
            return None
        price: FloatArray = instance.values[useful] - instance.values[current[useful]]
        # Changes that cost nothing go first, the most helpful of them foremost.
        rate = np.where(price > 0, price / taken[useful], -taken[useful])
        best = int(useful[np.argmin(rate)])
        positions[layer_of[best]] = best
    return None


def _improved(instance: KnapsackInstance, selection: IntArray, prices: FloatArray) -> IntArray:
    """Spend the rest of the budgets, repeatedly on what lowers the value most per price."""
    layer_of, worth = instance.layer_of, priced(instance.costs, prices)
    positions = selection.copy()
    slack = instance.budgets - instance.cost(positions)
    # An option that does not fit now may fit after a change that frees something, but the search
    # need not be complete: it only supplies a first solution.
    (open_options,) = np.nonzero(instance.values < instance.values[positions[layer_of]])
    while len(open_options):
        current = positions[layer_of[open_options]]
        gain = instance.values[current] - instance.values[open_options]
        extra = instance.costs[open_options] - instance.costs[current]
        fitting = (gain > 0) & np.all(extra <= slack, axis=1)
        open_options, gain, extra = open_options[fitting], gain[fitting], extra[fitting]
        if len(open_options):
            paid = worth[open_options] - worth[current[fitting]]
            best = int(np.argmax(gain / np.maximum(paid, _FREE * gain)))
            slack = slack - extra[best]
            positions[layer_of[open_options[best]]] = open_options[best]
    return positions


_FREE = 1e-9
"""A price below this share of its gain counts as this share."""
