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

    Attributes:
        groups: the groups of channels.
        costs: what the network costs, in each of the budgeted resources.
        budgets: how much it may cost, in each of them.
        seed: for a method that draws random numbers.
        arguments: the method's.
        multiple: a group that loses channels keeps a multiple of this many.
    """

    groups: Sequence[PrunableGroup]
    costs: Sequence[PruningCost]
    budgets: Sequence[int]
    seed: int = 0
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    multiple: int = 1

    @property
    def sizes(self) -> IntArray:
        """The numbers of channels, (groups,)."""
        return np.array([group.size for group in self.groups], dtype=np.int64)

    @property
    def fewest(self) -> IntArray:
        """The least numbers of channels that may be left, (groups,)."""
        return np.minimum(self.sizes, self.multiple)

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

    A step removes one channel, or as many as leave a multiple of `problem.multiple`.

    Args:
        problem: its costs fall with every removed channel, so that the fewest steps can be found
            by bisection.
        scores: for every group (n,), the order in which its channels are removed: the lowest
            score first, the first channel of equal scores.
        prices: for every group (n − 1,), the price of removing its r-th channel, not falling.
            A step has the price of its last channel. Of equal prices, the step comes first whose
            last channel has the lowest share of its group's scores.

    Returns:
        The removed channels; the objective is the price of the last step. Where that step saved
        more than was missing, some groups have been given what their last step took.

    Raises:
        InfeasibleError: even the fewest channels in every group are too much.
    """
    orders = [np.argsort(group_scores, kind="stable") for group_scores in scores]
    steps = sorted(
        (float(own_prices[gone - 1]), _share(own_scores, order[gone - 1]), group, gone)
        for group, (own_scores, own_prices, order) in enumerate(
            zip(scores, prices, orders, strict=True)
        )
        for gone in _removable(len(order), problem.multiple)
    )
    groups, amounts = (np.array([step[at] for step in steps], dtype=np.int64) for at in (2, 3))

    def gone_by(count: int) -> IntArray:
        gone = np.zeros_like(problem.sizes)
        np.maximum.at(gone, groups[:count], amounts[:count])
        return gone

    if not problem.met(problem.fewest):
        raise InfeasibleError("the fewest channels in every group are still too much")
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        met = problem.met(problem.sizes - gone_by(middle))
        low, high = (low, middle) if met else (middle + 1, high)
    gone = _with_steps_given_back(problem, gone_by(low), groups[:low])
    return Removal(
        {
            group.name: np.sort(order[:count])
            for group, order, count in zip(problem.groups, orders, gone.tolist(), strict=True)
            if count
        },
        steps[low - 1][0] if low else 0.0,
    )


def _removable(size: int, multiple: int) -> list[int]:
    """Return how many of `size` channels can be removed so that a multiple is left, ascending."""
    return [size - left for left in range(multiple, size, multiple)][::-1]


def _with_steps_given_back(problem: PruningProblem, gone: IntArray, taken: IntArray) -> IntArray:
    """Return how many channels to remove once the remaining budgets have been spent.

    The last step may save much more than was missing. Each group, starting with the last to lose
    channels, gets those of its last step back if the budgets allow that.
    """
    sizes = problem.sizes
    for group in dict.fromkeys(taken[::-1].tolist()):
        steps = [0, *_removable(int(sizes[group]), problem.multiple)]
        trial = gone.copy()
        trial[group] = steps[steps.index(gone[group]) - 1]
        if problem.met(sizes - trial):
            gone = trial
    return gone


def _share(scores: FloatArray, channel: int) -> float:
    """Return a channel's share of the sum of its group's scores."""
    total = float(scores.sum())
    return float(scores[channel]) / total if total > 0 else 0.0
