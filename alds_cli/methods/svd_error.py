"""SVD-Error: one slice per layer, and ranks of equal error.

Source: Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, supplement C.3, item 2.
"""

from __future__ import annotations

from alds_cli.allocation import Problem
from alds_cli.methods.alds_error import fixed_slices
from alds_cli.methods.method import ALDS_PAPER, Method
from alds_cli.methods.solvers import ROUNDING_ARGUMENT, default_bounds
from alds_cli.records import Plan


def plan(problem: Problem) -> Plan:
    """Minimise the layers' errors over the ranks of plain SVDs.

    Raises:
        OptionError: the solver cannot do what is asked.
        ValueError: the budgets cannot be met.
    """
    return fixed_slices(problem, 1, "svd-error")


METHOD = Method(
    "one slice in every layer, ranks of equal error",
    f"{ALDS_PAPER}, supplement C.3",
    plan,
    solvers=default_bounds(),
    arguments=ROUNDING_ARGUMENT,
)
