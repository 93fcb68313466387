"""L-Rank: the least energy lost plus λ times the cost, with one λ for all layers.

Given λ the layers separate: each takes the option with the least ‖W − Ŵ‖_F² + λ·cost. The λ for a
budget is the smallest at which the plan keeps within it; see `allocation.lower_hull`.

The original method learns ranks and weights in turns. Without training, this is its step for the
ranks, as in the comparison of Liebenwein et al., NeurIPS 2021, supplement B.4, item 4.

Source: Idelbayev, Carreira-Perpiñán, CVPR 2020, Eq. 5 and Sec. 4.2; folding schemes: Sec. 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ldexp

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation import Allocation, LayerOptions, Problem
from alds_cli.allocation.lower_hull import least_lagrangian
from alds_cli.errors import OptionError
from alds_cli.methods.method import Method
from alds_cli.methods.solvers import offering, plan_of
from alds_cli.numerics.fold import distinct_schemes
from alds_cli.records import (
    SLICED,
    ArgumentValue,
    FloatArray,
    LayerSpec,
    LayerTable,
    Plan,
)

COSTS = ("target", "params", "macs")
"""The costs that λ can be the price of: the budgeted resource, or a fixed one of these."""


def settings(arguments: Mapping[str, ArgumentValue]) -> tuple[int, str]:
    """Return the arguments `scheme` and `cost`.

    Raises:
        OptionError: one of them makes no sense.
    """
    scheme, cost = arguments["scheme"], arguments["cost"]
    if scheme not in SLICED or type(scheme) is not int:
        raise OptionError(f"unknown folding scheme {scheme}", tip="choose from 0, 1, 2, 3")
    if cost not in COSTS:
        raise OptionError(f"unknown cost '{cost}'", tip=f"choose from {', '.join(COSTS)}")
    return scheme, str(cost)


def plan(problem: Problem) -> Plan:
    """Minimise Σ ‖W − Ŵ‖_F² + λ·cost over the ranks of one slice per layer.

    The argument `scheme` is the folding scheme of the layers that it applies to; `cost` is one of
    `COSTS`.

    Raises:
        OptionError: an argument makes no sense.
        ValueError: the budgets cannot be met.
    """
    scheme, cost = settings(problem.arguments)
    # Energies of all layers are added up, so they must be in the same units.
    lossy = [table for table in problem.tables if any(table.energies.values())]
    largest = max((table.exponent for table in lossy), default=0)
    layers = [
        _options(options, table, scheme, largest)
        for options, table in zip(
            problem.options("frobenius", (0, scheme)), problem.tables, strict=True
        )
    ]
    costs = [
        _lagrangian_costs(problem, options, table.spec, str(cost))
        for options, table in zip(layers, problem.tables, strict=True)
    ]
    with offering(layers):
        chosen = least_lagrangian(layers, costs, problem.budgets)
    return plan_of(layers, Allocation(chosen, 0.0, 0.0), problem, "l-rank")


def _options(options: LayerOptions, table: LayerTable, scheme: int, unit: int) -> LayerOptions:
    """Return the ranks of one slice by the scheme that applies, with lost energies as errors."""
    applied = scheme if scheme in distinct_schemes(table.spec.kernel) else 0
    kept = options.choices[:, 1] == 0
    mask: NDArray[np.bool_] = kept | (
        (options.choices[:, 1] == 1) & (options.choices[:, 0] == applied)
    )
    options = options.subset(mask)
    energy = ldexp(table.energies[applied], 2 * (table.exponent - unit))
    lost = np.square(options.errors) * energy
    return LayerOptions(options.name, options.costs, lost, options.choices)


def _lagrangian_costs(
    problem: Problem, options: LayerOptions, spec: LayerSpec, cost: str
) -> FloatArray:
    """Return the cost that λ is the price of, for every option (n,)."""
    if cost == "target":
        return options.costs[:, 0].astype(np.float64)
    if problem.spending is None:
        raise OptionError("what options cost is not known", tip="leave out cost=")
    return problem.spending(cost, spec, options.choices).astype(np.float64)


METHOD = Method(
    "one slice, the least energy lost plus λ times the cost",
    "Idelbayev, Carreira-Perpiñán, CVPR 2020, Eq. 5, https://openaccess.thecvf.com/"
    "content_CVPR_2020/html/Idelbayev_Low-Rank_Compression_of_Neural_Nets_Learning_"
    "the_Rank_of_Each_CVPR_2020_paper.html",
    plan,
    schemes=SLICED,
    arguments={"scheme": 0, "cost": COSTS[0]},
    checks=(settings,),
)
