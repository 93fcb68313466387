"""The number of channels to remove from each group: the fewest steps that meet the budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alds_cli.allocation.layer_options import InfeasibleError
from alds_cli.records import ArgumentValue, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class PrunableGroup:
    """A group of n channels, each of which can be removed, as numbers.

    Attributes:
        name: the group's name.
        norms: the ℓ2 norm of all filters of a channel together, (n,).
        sensitivities: see `calibration.sensitivities`, (n,); None without data.
        fan_out: the largest number of filters of any layer that takes these channels.
    """

    name: str
    norms: FloatArray
    sensitivities: FloatArray | None = None
    fan_out: int = 1

    @property
    def size(self) -> int:
        """The number of channels."""
        return len(self.norms)


@dataclass(frozen=True, slots=True)
class PruningCost:
    """The exact cost of a network in one resource, as a function of the channels left, n (groups,).

    The cost is fixed + Σ_m weights[m] · (A n + a)[m] · (B n + b)[m]: the cost of a layer is
    proportional to its outputs and to its inputs, both of which may come from several groups.

    Attributes:
        fixed: the part that does not change.
        weights: whole units, (m,).
        outputs: A, (m, groups).
        constant_outputs: a, (m,).
        inputs: B, (m, groups).
        constant_inputs: b, (m,).
    """

    fixed: int
    weights: IntArray
    outputs: IntArray
    constant_outputs: IntArray
    inputs: IntArray
    constant_inputs: IntArray

    def __call__(self, counts: IntArray) -> int:
        """Return the cost with `counts` (groups,) channels left."""
        made = self.outputs @ counts + self.constant_outputs
        taken = self.inputs @ counts + self.constant_inputs
        return self.fixed + int((self.weights * made * taken).sum())


@dataclass(frozen=True, slots=True)
class PruningProblem:
    """The task of a method that removes filters: groups, and D budgets with their costs.

    One channel of every group stays, since no layer works without any.
    """

    groups: Sequence[PrunableGroup]
    costs: Sequence[PruningCost]
    budgets: Sequence[int]
    seed: int = 0
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)

    def met(self, counts: IntArray) -> bool:
        """Return whether `counts` (groups,) channels keep within all budgets."""
        return all(
            cost(counts) <= budget for cost, budget in zip(self.costs, self.budgets, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Removal:
    """The removed channels, ascending, by the group's name, and the objective that was reached."""

    removed: Mapping[str, IntArray]
    objective: float | None = None


def remove_in_order(
    problem: PruningProblem, scores: Sequence[FloatArray], prices: Sequence[FloatArray]
) -> Removal:
    """Remove channels, always by the cheapest step of all groups, until the budgets are met.

    Args:
        problem: its costs fall with every removed channel, so that the fewest steps can be found
            by bisection.
        scores: for every group (n,), the order in which its channels are removed: the lowest
            score first, the first channel of equal scores.
        prices: for every group (n − 1,), the price of the r-th step in it, not falling. Of equal
            prices, the step comes first whose channel has the lowest share of its group's scores.

    Returns:
        The removed channels; the objective is the price of the last step. Where that step saved
        more than was missing, some groups have been given one channel back.

    Raises:
        InfeasibleError: even one channel in every group is too much.
    """
    orders = [np.argsort(group_scores, kind="stable") for group_scores in scores]
    steps = sorted(
        (float(price), _share(scores[group], orders[group][taken]), group)
        for group, group_prices in enumerate(prices)
        for taken, price in enumerate(group_prices)
    )
    groups = np.array([group for _, _, group in steps], dtype=np.int64)
    sizes = np.array([group.size for group in problem.groups], dtype=np.int64)

    def left(count: int) -> IntArray:
        counts: IntArray = sizes - np.bincount(groups[:count], minlength=len(sizes))
        return counts

    if not problem.met(left(len(steps))):
        raise InfeasibleError("one channel in every group is still too much")
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if problem.met(left(middle)) else (middle + 1, high)
    gone = _with_channels_given_back(problem, sizes - left(low), groups[:low])
    return Removal(
        {
            group.name: np.sort(order[:count])
            for group, order, count in zip(problem.groups, orders, gone.tolist(), strict=True)
            if count
        },
        steps[low - 1][0] if low else 0.0,
    )


def _with_channels_given_back(problem: PruningProblem, gone: IntArray, taken: IntArray) -> IntArray:
    """Return how many channels to remove once the remaining budgets have been spent.

    The last step may save much more than was missing. Each group, starting with the last to lose
    a channel, gets its last one back if the budgets allow that.
    """
    sizes = np.array([group.size for group in problem.groups], dtype=np.int64)
    for group in dict.fromkeys(taken[::-1].tolist()):
        trial = gone.copy()
        trial[group] -= 1
        if problem.met(sizes - trial):
            gone = trial
    return gone


def _share(scores: FloatArray, channel: int) -> float:
    """Return a channel's share of the sum of its group's scores."""
    total = float(scores.sum())
    return float(scores[channel]) / total if total > 0 else 0.0
