"""Plans that make one quantity equal in all layers.

Ranks are whole numbers, so the quantity cannot be equal to the last digit. What the heuristics ask
for is then the least maximum of it over the layers: each layer takes the cheapest option that
keeps within the maximum, and the rest of the budget goes to the worst layers. The exact minimax
solver finds that; only the meaning of "error" differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from alds_cli.allocation import LayerOptions, Problem, minimax
from alds_cli.errors import OptionError
from alds_cli.methods.solvers import offering, plan_of
from alds_cli.numerics.fold import divisors
from alds_cli.records import ArgumentValue, LayerSpec, Plan


def equalised(problem: Problem, layers: Sequence[LayerOptions], method: str) -> Plan:
    """Make the `errors` of the layers' options equal, and as small as the budgets allow.

    Raises:
        ValueError: the budgets cannot be met.
    """
    with offering(layers):
        return plan_of(layers, minimax(layers, problem.budgets), problem, method)


def constant_ratio(problem: Problem, layers: Sequence[LayerOptions], method: str) -> Plan:
    """Remove the same fraction of every layer, as nearly as ranks allow.

    The fraction refers to the first resource that is budgeted. A layer that none of its options
    shrinks is kept.

    Args:
        problem: the problem, for its budgets.
        layers: the options of every layer; their errors are ignored.
        method: the method's name.

    Raises:
        ValueError: the budgets cannot be met.
    """
    return equalised(problem, [_with_fraction_removed(options) for options in layers], method)


def _with_fraction_removed(options: LayerOptions) -> LayerOptions:
    costs = options.costs[:, 0]
    (kept,) = np.nonzero(options.choices[:, 1] == 0)
    whole = int(costs[kept[0]])
    # A pair may take more MACs than its layer: that removes nothing.
    removed = np.maximum(1 - costs / whole, 0.0) if whole > 0 else np.zeros(len(costs))
    return replace(options, errors=removed)


_MOST_SLICES = 2**20
"""A number of channels that no layer reaches."""


def nearest_slices(spec: LayerSpec, k: int) -> int:
    """Return the number of slices nearest to k that a layer can have; of two, the smaller.

    Slices are equally wide, so the number divides the channels of a group.
    """
    most = spec.max_slices or spec.in_channels
    possible = [slices for slices in divisors(spec.in_channels // spec.groups) if slices <= most]
    return min(possible, key=lambda slices: (abs(slices - k), slices))


def sliced_options(problem: Problem, bound: str, k: int) -> list[LayerOptions]:
    """Return every layer's options by scheme 0 in k slices, or the nearest number that divides."""
    return [
        options.subset(
            (options.choices[:, 1] == 0) | (options.choices[:, 1] == nearest_slices(table.spec, k))
        )
        for options, table in zip(problem.options(bound), problem.tables, strict=True)
    ]


def slices_asked(arguments: Mapping[str, ArgumentValue]) -> int:
    """Return the argument `k`.

    Raises:
        OptionError: it is not a positive whole number.
    """
    k = arguments["k"]
    if type(k) is not int or not 1 <= k <= _MOST_SLICES:
        raise OptionError(
            f"a layer has 1 to {_MOST_SLICES:,} slices or clusters, not {k}", tip="--k 3"
        )
    return k
