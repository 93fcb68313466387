"""Whether a network that was made and timed is as fast as asked, and what to plan where not.

Prices of pairs are measured one by one, while the limits of time concern whole networks, so that a
plan within its budget may turn out too slow. It is then made anew with a margin.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from alds_cli.compression.targets import TIMED, Budget
from alds_cli.compression.traced_model import CostModel
from alds_cli.latency import NetworkComparison
from alds_cli.records import Plan

_DECIDING = 60
"""The least number of rounds that decide whether a network is fast enough."""


def to_save(budget: Budget, costs: CostModel, plan: Plan) -> float:
    """Return the fraction of the time that a network has to save by a budget of time."""
    if budget.efficiency is not None:
        resource = costs.asked
        share = 1 - costs.after(resource, plan) / resource.before
        return float(budget.efficiency) * share
    if budget.ratio is not None:
        return float(budget.ratio)
    return 1 - budget.allowed / budget.resource.before


def compared(
    budgets: Sequence[Budget], timed: nn.Module, costs: CostModel, plan: Plan
) -> NetworkComparison:
    """Time a network that was made, in turns with the original.

    Where it seems fast enough, it is timed once more, and what counts are these times alone: of
    many networks, that one is taken first whose times came out too short. They have more rounds
    where two seconds are few, as in large batches, whose confidence interval would be wide.

    Args:
        budgets: all that has to be kept.
        timed: the network as it is timed.
        costs: the costs of the network.
        plan: how that network was made.
    """
    model = costs.latency_model
    times = model.compare(timed)
    slow = slower_than_asked(budgets, times, costs, plan)
    if all(times.saved >= share for _, share in slow):
        return model.compare(timed, runs=max(_DECIDING, times.ratio.rounds))
    return times


def slower_than_asked(
    budgets: Sequence[Budget], times: NetworkComparison, costs: CostModel, plan: Plan
) -> list[tuple[int, float]]:
    """Return the places of the budgets of time that are exceeded, each with the share to save."""
    timed = [(i, own) for i, own in enumerate(budgets) if own.resource.name in TIMED]
    shares = [(i, own, to_save(own, costs, plan)) for i, own in timed]
    return [(i, share) for i, own, share in shares if excess_ns(own, times, share) > 0]


def excess_ns(budget: Budget, times: NetworkComparison, share: float) -> int:
    """Return by how many nanoseconds a network is too slow; at most 0 where it is fast enough.

    Shares must be saved with 95 % confidence; an absolute limit must hold for the median.

    Args:
        budget: of time.
        times: the measured times.
        share: the fraction to save, see `to_save`.
    """
    if budget.ratio is None and budget.efficiency is None:
        return round(times.compressed.median_ms * 1e6) - budget.allowed
    if times.saves(share):
        return 0
    over = times.ratio.at_most - (1 - share)
    return max(1, round(over * budget.resource.before))


def more_margin(
    budget: Budget, times: NetworkComparison, share: float, costs: CostModel, plan: Plan
) -> int:
    """Return by how much to tighten a budget of time: by the saving that did not come true.

    Where an efficiency is asked for, the prices of the plan's pairs are those in its network by
    now, and the margin becomes what their sum still differs by.

    Args:
        budget: of time.
        times: the measured times of the network that is too slow.
        share: the fraction to save, see `to_save`.
        costs: the costs of the network.
        plan: how that network was made.
    """
    latency = costs.resource("latency")
    foreseen = latency.before - costs.after(latency, plan)
    if budget.efficiency is not None:
        return foreseen - round((1 - times.ratio.at_most) * latency.before) - budget.margin
    worth = times.saved * latency.before / foreseen if foreseen > 0 else 0.0
    # Aim a little lower, or the rounds would approach the limit without reaching it.
    missing = share * latency.before / worth - foreseen if worth > 0 else latency.before
    return round(max(1.05 * missing, 1.25 * excess_ns(budget, times, share)))
