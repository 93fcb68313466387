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
"""Sums of values in fixed point stay below 2 to this."""


@dataclass(frozen=True, slots=True)
class KnapsackInstance:
    """The undominated options of all layers, one layer's behind the other's.

    `values` (N,), not negative, are what is summed; `costs` (N, D) what options take of
    the `budgets` (D,). `starts` and `ends` (layers) tell where each layer's options are,
    `indices` (N,) which of its `LayerOptions` each is.
    """

    values: FloatArray
    costs: IntArray
    indices: IntArray
    starts: IntArray
    ends: IntArray
    budgets: IntArray

    @classmethod
    def of(cls, layers: Sequence[LayerOptions], budgets: Sequence[int]) -> KnapsackInstance:
        """The instance of at least one layer, whose errors are the values."""
        kept = [_worth_having(options) for options in layers]
        return cls.join(
            [(own.errors[at], own.costs[at], at) for own, at in zip(layers, kept, strict=True)],
            budgets,
        )

    @classmethod
    def join(
        cls, pieces: Sequence[tuple[FloatArray, IntArray, IntArray]], budgets: Sequence[int]
    ) -> KnapsackInstance:
        """Lay the layers' values, costs and indices end to end."""
        ends = np.array(list(accumulate(len(values) for values, _, _ in pieces)), dtype=np.int64)
        values, costs, indices = (np.concatenate(column) for column in zip(*pieces, strict=True))
        starts = np.concatenate([[0], ends[:-1]])
        return cls(values, costs, indices, starts, ends, np.array(budgets, dtype=np.int64))

    @property
    def layer_of(self) -> IntArray:
        """The layer of every option, (N,)."""
        return np.repeat(np.arange(len(self.starts)), self.ends - self.starts)

    def value(self, positions: IntArray) -> float:
        """The sum of a selection's values, rounded once."""
        return math.fsum(self.values[positions].tolist())

    def cost(self, positions: IntArray) -> IntArray:
        """What a selection takes of every resource, (D,)."""
        total: IntArray = self.costs[positions].sum(axis=0)
        return total

    def fits(self, positions: IntArray) -> bool:
        """Whether a selection keeps all budgets."""
        return bool(np.all(self.cost(positions) <= self.budgets))

    def first_of_least(self, weights: FloatArray) -> IntArray:
        """For every layer the position of its first option of least weight."""
        least = np.repeat(np.minimum.reduceat(weights, self.starts), self.ends - self.starts)
        (equal,) = np.nonzero(weights == least)
        return equal[np.searchsorted(equal, self.starts)]

    def fixed_point(self) -> tuple[IntArray, int, bool]:
        """The values as whole numbers of 2^-shift, rounded down: (numbers, shift, exact).

        Sums of these are exact, one option per layer staying below 2^60.
        """
        most = float(np.maximum.reduceat(self.values, self.starts).sum())
        shift = BITS - math.frexp(most)[1] if most > 0 else 0
        scaled = np.ldexp(self.values, shift)
        whole = np.floor(scaled)
        return whole.astype(np.int64), shift, bool(np.all(whole == scaled))


def priced(costs: IntArray, prices: FloatArray) -> FloatArray:
    """Costs (n, D) at prices (D,): column by column, so that no number of threads matters."""
    total: FloatArray = costs[:, 0] * prices[0]
    for resource in range(1, len(prices)):
        total += costs[:, resource] * prices[resource]
    return total


def _worth_having(options: LayerOptions) -> IntArray:
    if options.costs.shape[1] == 1:
        return frontier(options).indices
    return undominated_options(options.errors, options.costs)
