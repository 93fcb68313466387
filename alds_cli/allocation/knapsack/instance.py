"""The multiple-choice knapsack: one option per layer, budgets to hold, a sum to minimise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from alds_cli.allocation.layer_options import LayerOptions, frontier, undominated_options
from alds_cli.records import FloatArray, IntArray

BITS = 60
"""Sums of values in fixed point stay below two to this power."""


@dataclass(frozen=True, slots=True)
class KnapsackInstance:
    """The undominated options of all layers, concatenated layer by layer.

    `values` (N,), which are not negative, are summed. `costs` (N, D) are the options' costs in
    the resources of the `budgets` (D,). `starts` and `ends` (layers,) delimit each layer's
    options, and `indices` (N,) points into its `LayerOptions`.
    """

    values: FloatArray
    costs: IntArray
    indices: IntArray
    starts: IntArray
    ends: IntArray
    budgets: IntArray

    @classmethod
    def of(cls, layers: Sequence[LayerOptions], budgets: Sequence[int]) -> KnapsackInstance:
        """Return the instance of at least one layer, whose values are the errors."""
        kept = [_worth_having(options) for options in layers]
        return cls.join(
            [
                (options.errors[at], options.costs[at], at)
                for options, at in zip(layers, kept, strict=True)
            ],
            budgets,
        )

    @classmethod
    def join(
        cls, pieces: Sequence[tuple[FloatArray, IntArray, IntArray]], budgets: Sequence[int]
    ) -> KnapsackInstance:
        """Concatenate the layers' values, costs and indices."""
        ends = np.array(list(accumulate(len(values) for values, _, _ in pieces)), dtype=np.int64)
        values, costs, indices = (np.concatenate(column) for column in zip(*pieces, strict=True))
        starts = np.concatenate([[0], ends[:-1]])
        return cls(values, costs, indices, starts, ends, np.array(budgets, dtype=np.int64))

    @property
    def layer_of(self) -> IntArray:
        """The layer of every option, (N,)."""
        return np.repeat(np.arange(len(self.starts)), self.ends - self.starts)

    def value(self, positions: IntArray) -> float:
        """Return the sum of a selection's values, rounded once."""
        return math.fsum(self.values[positions].tolist())

    def cost(self, positions: IntArray) -> IntArray:
        """Return the cost of a selection in every resource, (D,)."""
        total: IntArray = self.costs[positions].sum(axis=0)
        return total

    def fits(self, positions: IntArray) -> bool:
        """Return whether a selection keeps within all budgets."""
        return bool(np.all(self.cost(positions) <= self.budgets))

    def first_of_least(self, weights: FloatArray) -> IntArray:
        """Return the position of the first option of least weight (N,) in every layer."""
        least = np.repeat(np.minimum.reduceat(weights, self.starts), self.ends - self.starts)
        (equal,) = np.nonzero(weights == least)
        return equal[np.searchsorted(equal, self.starts)]

    def fixed_point(self) -> tuple[IntArray, int, bool]:
        """Return the values as whole multiples of 2^-shift, rounded down: (numbers, shift, exact).

        Sums of these numbers with one option per layer are exact, since they stay below 2^60.
        """
        most = float(np.maximum.reduceat(self.values, self.starts).sum())
        shift = BITS - math.frexp(most)[1] if most > 0 else 0
        scaled = np.ldexp(self.values, shift)
        whole = np.floor(scaled)
        return whole.astype(np.int64), shift, bool(np.all(whole == scaled))


def priced(costs: IntArray, prices: FloatArray) -> FloatArray:
    """Return costs (n, D) at prices (D,), summed by column and thus the same for any threads."""
    total: FloatArray = costs[:, 0] * prices[0]
    for resource in range(1, len(prices)):
        total += costs[:, resource] * prices[resource]
    return total


def _worth_having(options: LayerOptions) -> IntArray:
    if options.costs.shape[1] == 1:
        return frontier(options).indices
    return undominated_options(options.errors, options.costs)
