"""ALDS: channel slicing, and one allocation over (k, j) of all layers.

Source: Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, Sec. 2.2, Eq. 8, Algorithm 1.
"""

from __future__ import annotations

from alds_cli.allocation import Problem
from alds_cli.methods.method import ALDS_PAPER, Method
from alds_cli.methods.solvers import ROUNDING_ARGUMENT, allocated, default_bounds
from alds_cli.records import Plan


def plan(problem: Problem) -> Plan:
    """Minimise the layers' errors over all slices and ranks of scheme 0.

    Raises:
        OptionError: the solver cannot do what is asked.
        ValueError: the budgets cannot be met.
    """
    return allocated(problem, problem.options, "alds")


METHOD = Method(
    "channel slicing; one allocation over the slices and ranks of all layers",
    f"{ALDS_PAPER}, Eq. 8",
    plan,
    solvers=default_bounds(),
    arguments=ROUNDING_ARGUMENT,
)
