"""How many channels each group loses: the shortest run of steps that meets the budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alds_cli.allocation.layer_options import InfeasibleError
from alds_cli.records import ArgumentValue, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class PrunableGroup:
    """A group of channels in numbers: each of its n channels can be removed.

    Attributes:
        name: of the group.
        norms: the ℓ2 norm of all filters of a channel together, (n,).
        sensitivities: see `calibration.sensitivities`, (n,); None without data.
        fan_out: the most filters that any layer has which takes these channels.
    """

    name: str
    norms: FloatArray
    sensitivities: FloatArray | None = None
    fan_out: int = 1

    @property
    def size(self) -> int:
        """Its number of channels."""
        return len(self.norms)


@dataclass(frozen=True, slots=True)
class PruningCost:
    """What a network takes of one resource, exactly, when n (groups,) channels are left.

    fixed + Σ_m weights[m] · (A n + a)[m] · (B n + b)[m]: a layer's share is proportional to its
    outputs and to its inputs, both of which may come from several groups.

    Attributes:
        fixed: what does not change.
        weights: (m,), whole units.
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
        """With so many channels left in each group."""
        made = self.outputs @ counts + self.constant_outputs
        taken = self.inputs @ counts + self.constant_inputs
        return self.fixed + int((self.weights * made * taken).sum())


@dataclass(frozen=True, slots=True)
class PruningProblem:
    """What a method that removes filters is asked: groups, and D budgets with their costs.

    One channel of every group stays, since no layer works without any.
    """

    groups: Sequence[PrunableGroup]
    costs: Sequence[PruningCost]
    budgets: Sequence[int]
    seed: int = 0
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)

    def met(self, counts: IntArray) -> bool:
        """Whether so many channels left in each group keep within all budgets."""
        return all(
            cost(counts) <= budget for cost, budget in zip(self.costs, self.budgets, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Removal:
    """Which channels go, ascending, by the group's name, and the objective that was reached."""

    removed: Mapping[str, IntArray]
    objective: float | None = None


def remove_in_order(
    problem: PruningProblem, scores: Sequence[FloatArray], prices: Sequence[FloatArray]
) -> Removal:
    """Remove channels, the cheapest step of all groups first, until the budgets are met.

    Args:
        problem: its costs fall with every channel that goes, so that the shortest run of
            steps is found by bisection.
        scores: of every group, (n,): its channels go in their order, the lowest first and of
            equal ones the first.
        prices: of every group, (n − 1,): what the r-th step in it is worth, not falling.
            Of equal steps that comes first whose channel scores least for its group.

    Returns:
        The channels that go; the objective is the last step's price. Where that step saved
        more than was missing, some groups have got one channel back.

    Raises:
        InfeasibleError: one channel in every group is still too much.
    """
    orders = [np.argsort(own, kind="stable") for own in scores]
    steps = sorted(
        (float(price), _share(scores[group], orders[group][taken]), group)
        for group, own in enumerate(prices)
        for taken, price in enumerate(own)
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
    """How many channels go, after what is left of the budgets has been spent.

    The last step may save much more than was missing. Every group, the last to lose a channel
    first, gets its last one back where the budgets allow that.
    """
    sizes = np.array([group.size for group in problem.groups], dtype=np.int64)
    for group in dict.fromkeys(taken[::-1].tolist()):
        trial = gone.copy()
        trial[group] -= 1
        if problem.met(sizes - trial):
            gone = trial
    return gone


def _share(scores: FloatArray, channel: int) -> float:
    """A channel's score for the sum over its group."""
    total = float(scores.sum())
    return float(scores[channel]) / total if total > 0 else 0.0
