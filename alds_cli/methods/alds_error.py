"""ALDS-Error: the number of slices is fixed, and the ranks have equal error.

This is line 4 of Algorithm 1 alone, an ablation that shows how much choosing k gains. In a layer
whose channels k does not divide, the nearest divisor is used.

Source: Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, supplement C.3, items 1 and 2.
"""

from __future__ import annotations

from alds_cli.allocation import LayerOptions, Problem
from alds_cli.methods.equalising import sliced_options, slices_asked
from alds_cli.methods.method import ALDS_PAPER, Method
from alds_cli.methods.solvers import ROUNDING_ARGUMENT, allocated, default_bounds
from alds_cli.records import Plan


def plan(problem: Problem) -> Plan:
    """Minimise the layers' errors over the ranks in `k` slices.

    Raises:
        OptionError: k makes no sense, or the solver cannot do what is asked.
        ValueError: the budgets cannot be met.
    """
    return fixed_slices(problem, slices_asked(problem.arguments), "alds-error")


def fixed_slices(problem: Problem, k: int, method: str) -> Plan:
    """Return the plan of `plan` for a given k, under the name of another method."""

    def options(bound: str) -> list[LayerOptions]:
        return sliced_options(problem, bound, k)

    return allocated(problem, options, method)


METHOD = Method(
    "k slices in every layer, ranks of equal error",
    f"{ALDS_PAPER}, supplement C.3",
    plan,
    solvers=default_bounds(),
    arguments={"k": 3, **ROUNDING_ARGUMENT},
    checks=(slices_asked,),
)
