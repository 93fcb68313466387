"""What may become of each layer, as plain arrays: the ground all optimisers stand on.

A frontier holds the options worth having where one resource is spent: costs rise, errors fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from alds_cli.records import (
    Choice,
    FloatArray,
    IntArray,
)


class InfeasibleError(ValueError):
    """No choice of options keeps within the budgets; `layers` is what was on offer, if known."""

    layers: Sequence[LayerOptions] | None = None


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """Every option of one layer; the one that keeps it, with error 0, is always among them.

    `costs` (n, D) is what each takes of D resources, parameters alone as a rule, `errors`
    (n,) is what is minimised, `choices` (n, 3) holds (scheme, k, j), or zeros for keeping
    the layer.
    """

    name: str
    costs: IntArray
    errors: FloatArray
    choices: IntArray

    def choice(self, index: int) -> Choice | None:
        """The choice behind an option; None for keeping the layer."""
        scheme, k, j = (int(value) for value in self.choices[index])
        return Choice(scheme, k, j) if k else None

    def subset(self, mask: NDArray[np.bool_]) -> LayerOptions:
        """The options for which the mask holds."""
        return LayerOptions(self.name, self.costs[mask], self.errors[mask], self.choices[mask])


@dataclass(frozen=True, slots=True)
class Allocation:
    """One option for every layer, and how good that provably is.

    `chosen` holds the index of each layer's option; `objective` is what was minimised, the
    largest error or the sum of the errors; no allocation within the budgets lies below
    `lower_bound`, which equals the objective where that is proven to be the optimum.
    """

    chosen: list[int]
    objective: float
    lower_bound: float

    @property
    def gap(self) -> float:
        """How far above the optimum the objective is at most."""
        return self.objective - self.lower_bound


@dataclass(frozen=True, slots=True)
class Frontier:
    """The options of a layer that no other dominates: costs rise, errors strictly fall.

    `indices` points into the `LayerOptions` it was made from.
    """

    costs: IntArray
    errors: FloatArray
    indices: IntArray

    def cheapest(self, level: float) -> int:
        """Position of the cheapest option whose error is at most `level`, which one must have."""
        return int(np.searchsorted(-self.errors, -level))


def frontier(options: LayerOptions) -> Frontier:
    """Drop the options that another one beats in cost or error and equals in the other.

    Of options alike in both, the first stays.
    """
    costs, errors = options.costs[:, 0], options.errors
    order = None
    if len(costs) > 1 and not bool(np.all(costs[1:] >= costs[:-1])):
        order = by_cost(costs)
        costs, errors = costs[order], errors[order]
    least = np.minimum.accumulate(errors)
    (kept,) = np.nonzero(np.concatenate([_TRUE, least[1:] < least[:-1]]))
    costs = costs[kept]
    rising = np.concatenate([costs[1:] > costs[:-1], _TRUE])  # of equal costs the last is best
    kept, costs = kept[rising], costs[rising]
    return Frontier(costs, errors[kept], kept if order is None else order[kept])


_TRUE = np.ones(1, dtype=np.bool_)


def by_cost(costs: IntArray) -> IntArray:
    """The stable order of costs ≥ 0.

    Cost and position in one integer: sorting values is several times faster than sorting
    indices.
    """
    bits = len(costs).bit_length()
    if int(costs.max()) >> (62 - bits):
        return np.argsort(costs, kind="stable")
    keys = (costs << bits) | np.arange(len(costs))
    keys.sort()
    return keys & ((1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class Frontiers:
    """The frontiers of all layers, one behind the other.

    `starts` (layers) holds where each begins, `ends` where it ends.
    """

    costs: IntArray
    errors: FloatArray
    indices: IntArray
    starts: IntArray
    ends: IntArray

    @classmethod
    def join(cls, frontiers: Sequence[Frontier]) -> Frontiers:
        """Lay frontiers, of which there must be at least one, end to end."""
        ends = np.array(list(accumulate(len(own.costs) for own in frontiers)), dtype=np.int64)
        return cls(
            np.concatenate([own.costs for own in frontiers]),
            np.concatenate([own.errors for own in frontiers]),
            np.concatenate([own.indices for own in frontiers]),
            np.concatenate([[0], ends[:-1]]),
            ends,
        )

    def of(self, layer: int) -> Frontier:
        """The frontier of one layer."""
        own = slice(int(self.starts[layer]), int(self.ends[layer]))
        return Frontier(self.costs[own], self.errors[own], self.indices[own])

    def cheapest(self, level: float) -> IntArray:
        """For every layer the position of its cheapest option with error at most `level`."""
        above: NDArray[np.int64] = np.add.reduceat(self.errors > level, self.starts, dtype=np.int64)
        return self.starts + above

    def lowest_level(self, budget: int) -> float:
        """The smallest error that every layer can stay within at that budget.

        A layer takes the step from one option to the next once the level is below the
        error of the first. So what a level costs is a sum over the steps above it, and the
        lowest level is found as a weighted median is: by throwing away, again and again,
        the part of the steps that is settled.

        Raises:
            ValueError: even the cheapest options exceed the budget.
        """
        slack = budget - int(self.costs[self.starts].sum())
        if slack < 0:
            raise InfeasibleError("even the cheapest options exceed the budget")
        steps = np.ones(len(self.costs), dtype=np.bool_)
        steps[self.ends - 1] = False
        errors, extra = self.errors[steps], np.diff(self.costs)[steps[:-1]]
        while len(errors) > _SORTED_AT_ONCE:
            sample = errors[:: len(errors) // _SAMPLES]
            pivot = np.partition(sample, len(sample) // 2)[len(sample) // 2]
            above = errors > pivot
            spent = int(extra[above].sum())
            if spent > slack:
                errors, extra = errors[above], extra[above]
            elif above.any():
                slack -= spent
                errors, extra = errors[~above], extra[~above]
            else:
                break
        order = np.argsort(-errors)
        affordable = int(np.searchsorted(np.cumsum(extra[order]), slack, side="right"))
        floor = float(self.errors[self.ends - 1].max())
        return floor if affordable == len(order) else max(floor, float(errors[order[affordable]]))


_SORTED_AT_ONCE = 2048

_SAMPLES = 256


def first_of_equals(options: LayerOptions, index: int) -> int:
    """The first by (scheme, k, j) of the options alike in costs and error."""
    (equal,) = np.nonzero(options.errors == options.errors[index])
    if len(equal) > 1:
        equal = equal[np.all(options.costs[equal] == options.costs[index], axis=1)]
    if len(equal) > 1:
        equal = equal[np.lexsort(options.choices[equal].T[::-1])]
    return int(equal[0])


_BLOCK = 256


def undominated(values: IntArray, costs: IntArray, slack: int = 0) -> IntArray:
    """Indices of the rows for which no other has value and costs at most as large.

    Of rows alike the first stays.

    Args:
        values: (n,).
        costs: (n, D).
        slack: by so much a row's value must be above another's to be dominated by it;
            for values known to that accuracy only.

    Returns:
        The kept rows in the order of their values for D > 1, of their costs for D = 1.
    """
    if costs.shape[1] == 1:
        order = np.lexsort((values, costs[:, 0]))
        ordered = values[order]
        kept = np.ones(len(order), dtype=np.bool_)
        kept[1:] = ordered[1:] < np.minimum.accumulate(ordered)[:-1] + slack
        return order[kept]
    order = np.lexsort((*costs.T[::-1], values))
    rows = np.column_stack([values, costs])[order]
    found, standing = [np.zeros(0, np.int64)], rows[:0]
    for start in range(0, len(rows), _BLOCK):
        block, own = rows[start : start + _BLOCK], order[start : start + _BLOCK]
        alive = ~_beaten(standing, block, slack).any(axis=0)
        block, own = block[alive], own[alive]
        # Within the block only those that come before can dominate: the others have a
        # larger value or cost, or are alike and later.
        alive = ~np.triu(_beaten(block, block, slack), 1).any(axis=0)
        standing = np.concatenate([standing, block[alive]])
        found.append(own[alive])
    return np.concatenate(found)


def _beaten(by: IntArray, rows: IntArray, slack: int) -> NDArray[np.bool_]:
    """Entry (i, j): whether row i of `by` is nowhere above row j of `rows`."""
    beaten = by[:, :1] + slack <= rows[:, 0]
    for column in range(1, rows.shape[1]):
        beaten &= by[:, column, None] <= rows[:, column]
    return beaten


def undominated_options(errors: FloatArray, costs: IntArray) -> IntArray:
    """Indices of the options (n,) that no other equals or beats in error and all costs (n, D)."""
    _, ranks = np.unique(errors, return_inverse=True)
    return undominated(ranks.astype(np.int64), costs)
