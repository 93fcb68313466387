"""Solutions within the budgets, made from selections that miss them or leave some over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from alds_cli.allocation.knapsack.instance import KnapsackInstance, priced
from alds_cli.records import FloatArray, IntArray

_STARTS = 3
"""How many selections within the budgets are improved, and how many others mended."""


def best_of(
    instance: KnapsackInstance, selections: Sequence[IntArray], prices: FloatArray
) -> IntArray | None:
    """The best of what the most promising selections become; None if none can be mended.

    Args:
        instance: what to choose from.
        selections: with a position for each layer, whether within the budgets or not, the
            last ones nearest to the best prices.
        prices: what a unit of each resource is worth, (D,).
    """
    within = [own for own in selections if instance.fits(own)]
    within = sorted(within, key=instance.value)[:_STARTS]
    if not within or len(instance.budgets) > 1:
        beyond = [own for own in reversed(selections) if not instance.fits(own)]
        mended = (_mended(instance, own) for own in beyond)
        within += list(islice((own for own in mended if own is not None), _STARTS))
    improved = [_improved(instance, own, prices) for own in within]
    return min(improved, key=instance.value, default=None)


def _mended(instance: KnapsackInstance, selection: IntArray) -> IntArray | None:
    """Change one layer after the other, for the least value per excess taken away."""
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
        # What costs nothing goes first, the most helpful of it foremost.
        rate = np.where(price > 0, price / taken[useful], -taken[useful])
        best = int(useful[np.argmin(rate)])
        positions[layer_of[best]] = best
    return None


def _improved(instance: KnapsackInstance, selection: IntArray, prices: FloatArray) -> IntArray:
    """Spend what is left on whatever lowers the value most for its price, again and again."""
    layer_of, worth = instance.layer_of, priced(instance.costs, prices)
    positions = selection.copy()
    slack = instance.budgets - instance.cost(positions)
    # What does not fit now may fit after a change that gives something back, but the
    # search need not be complete: it only supplies a solution to start from.
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
"""What costs less than this share of its gain is as good as free."""
