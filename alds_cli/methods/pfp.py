"""Provable filter pruning: `pfp`.

Source: Liebenwein, Baykal, Lang, Feldman, Rus, "Provable Filter Pruning for Efficient Neural
Networks", ICLR 2020, https://openreview.net/forum?id=BJxk01SYDH (https://arxiv.org/abs/1911.07412).

A layer keeps channels drawn with probabilities s_j / S, where s are the sensitivities and S is
their sum. This changes the outputs of the next layers by at most a factor 1 ± ε, with probability
1 − δ, if the number of draws is

    m(ε) = K (6 + 2ε) S log(2η / δ) / ε²

(the paper's sample complexity, Sec. 3 and Alg. 1; η counts the filters that take the channels).
This follows from Bernstein's inequality: the share of channel j in any response is at most s_j, so
that no draw contributes more than S times the response. Of m draws, Σ_j 1 − (1 − s_j / S)^m are
expected to be distinct channels, and that many are kept. As in the ALDS paper's comparison
(supplement B.4, item 6), the same ε, determined by the budget, holds for all layers, and the
channels of least sensitivity are removed instead of drawing any.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log, sqrt

import numpy as np

from alds_cli.allocation.channel_pruning import (
    PrunableGroup,
    PruningProblem,
    Removal,
    remove_in_order,
)
from alds_cli.calibration import SENSITIVITIES
from alds_cli.errors import OptionError
from alds_cli.methods.method import Method
from alds_cli.records import ArgumentValue, FloatArray

ARGUMENTS = {"delta": 1e-16}
"""δ, the probability with which the guarantee may fail."""

_K = 3.0
"""The factor by which sensitivities on a sample may fall short of those on all data. It is the same
for all layers, so it scales ε and changes no plan."""

_TOGETHER = 256
"""The number of equations that are solved at once, which bounds the memory."""

_MOST_STEPS = 500

_PRECISION = 1e-12
"""Relative change at which a solution has converged."""


def failure_probability(arguments: Mapping[str, ArgumentValue]) -> float:
    """Return the argument `delta`.

    Raises:
        OptionError: it is not a probability.
    """
    delta = arguments.get("delta", ARGUMENTS["delta"])
    if not isinstance(delta, (int, float)) or not 0 < delta < 1:
        raise OptionError(f"delta is a probability between 0 and 1, not {delta}")
    return float(delta)


def prune(problem: PruningProblem) -> Removal:
    """Remove channels so that the largest ε of all groups is as small as the budgets allow.

    Returns:
        The removed channels; the objective is ε.

    Raises:
        OptionError: δ is not a probability.
        ValueError: a group has no sensitivities.
        InfeasibleError: even one channel in every group is too much.
    """
    delta = failure_probability(problem.arguments)
    scores = [_sensitivities(group) for group in problem.groups]
    prices = [
        guarantees(sensitivities, group.fan_out, delta)[:-1][::-1]
        for sensitivities, group in zip(scores, problem.groups, strict=True)
    ]
    return remove_in_order(problem, scores, prices)


def _sensitivities(group: PrunableGroup) -> FloatArray:
    if group.sensitivities is None:
        raise ValueError(f"there are no sensitivities of {group.name}")
    return group.sensitivities


def guarantees(sensitivities: FloatArray, fan_out: int, delta: float) -> FloatArray:
    """Return the smallest ε that is guaranteed with 1, 2, …, n channels: (n,), not rising.

    Args:
        sensitivities: s, (n,), not negative.
        fan_out: η, the number of filters that take the channels.
        delta: δ, the probability with which the guarantee may fail.
    """
    total = float(sensitivities.sum())
    needed = int(np.count_nonzero(sensitivities))
    errors = np.zeros(len(sensitivities))
    if needed < 2:
        return errors
    draws = _draws_for(np.arange(1.0, needed), sensitivities[sensitivities > 0] / total)
    # m = K (6 + 2ε) · load / ε², solved for ε.
    load = total * log(2 * fan_out / delta)
    rate = draws / (_K * load)
    errors[: needed - 1] = [(1 + sqrt(1 + 6 * r)) / r for r in rate.tolist()]
    return errors


def _draws_for(distinct: FloatArray, probabilities: FloatArray) -> FloatArray:
    """Return how many draws are expected to give so many distinct channels, (n,), not falling.

    Newton's method starts from too few draws: the expected number is concave in the draws, so
    that every step stays below the solution.
    """
    rates = np.log1p(-np.minimum(probabilities, 1 - 1e-16))
    found = [_solved(distinct[rows], rates) for rows in _in_blocks(len(distinct))]
    draws: FloatArray = np.maximum.accumulate(np.concatenate(found))
    return draws


def _in_blocks(count: int) -> list[slice]:
    return [slice(start, start + _TOGETHER) for start in range(0, count, _TOGETHER)]


def _solved(distinct: FloatArray, rates: FloatArray) -> FloatArray:
    """Return the draws m with Σ_j 1 − (1 − p_j)^m equal to each of (n,), from log(1 − p_j)."""
    draws = distinct.astype(np.float64)  # too few, since some draws give the same channel
    active = np.arange(len(draws))
    for _ in range(_MOST_STEPS):
        missed = np.exp(draws[active, None] * rates)
        missing = distinct[active] - (1 - missed).sum(axis=1)
        slope = -(missed * rates).sum(axis=1)
        ahead = (missing > 0) & (slope > 0)
        change = np.divide(missing, slope, out=np.zeros_like(missing), where=ahead)
        draws[active] += change
        active = active[change > _PRECISION * draws[active]]
        if len(active) == 0:
            break
    return draws


METHOD = Method(
    "removes the filters that images show next layers to be least sensitive to",
    "Liebenwein, Baykal, Lang, Feldman, Rus, ICLR 2020, "
    "https://openreview.net/forum?id=BJxk01SYDH, Alg. 1",
    None,
    prune=prune,
    arguments=ARGUMENTS,
    checks=(failure_probability,),
    needs=(SENSITIVITIES,),
    targets=("params", "macs", "bytes"),
)
