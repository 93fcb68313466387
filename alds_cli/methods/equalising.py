"""Plans that make one figure equal in all layers.

Ranks are whole numbers, so no figure comes out equal to the last digit. What the heuristics
ask for is then the least maximum of that figure over the layers: below it each layer takes
the cheapest option that reaches it, and what budget is left goes to the layers that are worst
off. The exact minimax solver finds that; only what counts as "error" differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from alds_cli.allocation import LayerOptions, Problem, minimax
from alds_cli.errors import OptionError
from alds_cli.methods.solvers import offering, plan_of
from alds_cli.numerics.costs import divisors
from alds_cli.records import ArgumentValue, LayerSpec, Plan


def equalised(problem: Problem, layers: Sequence[LayerOptions], method: str) -> Plan:
    """Make the `errors` of the layers' options equal, and as small as the budgets allow.

    Raises:
        ValueError: the budgets cannot be met.
    """
    with offering(layers):
        return plan_of(layers, minimax(layers, problem.budgets), problem, method)


def constant_ratio(problem: Problem, layers: Sequence[LayerOptions], method: str) -> Plan:
    """Remove the same fraction of every layer, as near as ranks allow.

    The fraction is one of the first resource that is budgeted. A layer that none of its
    options shrinks is kept.

    Args:
        problem: its budgets count.
        layers: what is on offer; the errors are of no matter.
        method: the method's name.

    Raises:
        ValueError: the budgets cannot be met.
    """
    return equalised(problem, [_with_fraction_removed(own) for own in layers], method)


def _with_fraction_removed(own: LayerOptions) -> LayerOptions:
    costs = own.costs[:, 0]
    (kept,) = np.nonzero(own.choices[:, 1] == 0)
    whole = int(costs[kept[0]])
    # Of MACs a pair may take more than its layer does: that removes nothing.
    removed = np.maximum(1 - costs / whole, 0.0) if whole > 0 else np.zeros(len(costs))
    return replace(own, errors=removed)


_MOST_SLICES = 2**20
"""More channels than any layer has."""


def nearest_slices(spec: LayerSpec, k: int) -> int:
    """The number of slices nearest to k that a layer can have; of two, the smaller.

    Slices are equally wide, so it divides the channels of a group.
    """
    most = spec.max_slices or spec.in_channels
    possible = [own for own in divisors(spec.in_channels // spec.groups) if own <= most]
    return min(possible, key=lambda own: (abs(own - k), own))


def sliced_options(problem: Problem, bound: str, k: int) -> list[LayerOptions]:
    """What becomes of every layer in k slices, or the nearest number of them: scheme 0."""
    return [
        own.subset((own.choices[:, 1] == 0) | (own.choices[:, 1] == nearest_slices(table.spec, k)))
        for own, table in zip(problem.options(bound), problem.tables, strict=True)
    ]


def slices_asked(arguments: Mapping[str, ArgumentValue]) -> int:
    """The argument `k`.

    Raises:
        OptionError: it is no positive whole number.
    """
    k = arguments["k"]
    if type(k) is not int or not 1 <= k <= _MOST_SLICES:
        raise OptionError(
            f"a layer has 1 to {_MOST_SLICES:,} slices or clusters, not {k}", tip="--k 3"
        )
    return k
