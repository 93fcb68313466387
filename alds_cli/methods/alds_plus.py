"""ALDS+: the local step also searches the four folding schemes.

A layer's options are all (scheme, k, j). Channels are sliced before they are folded, in the error
tables as well as in the layers made from them.

Source: Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, supplement A.6 and C.4.
"""

from __future__ import annotations

from alds_cli.allocation import LayerOptions, Problem
from alds_cli.methods.method import ALDS_PAPER, Method
from alds_cli.methods.solvers import ROUNDING_ARGUMENT, allocated, default_bounds
from alds_cli.records import SLICED, Plan


def plan(problem: Problem) -> Plan:
    """Minimise the layers' errors over all schemes, slices and ranks.

    Raises:
        OptionError: the solver cannot do what is asked.
        ValueError: the budgets cannot be met.
    """

    def options(bound: str) -> list[LayerOptions]:
        return problem.options(bound, SLICED)

    return allocated(problem, options, "alds+")


METHOD = Method(
    "the same over four ways to fold a kernel as well",
    f"{ALDS_PAPER}, supplement A.6",
    plan,
    solvers=default_bounds(),
    schemes=SLICED,
    arguments=ROUNDING_ARGUMENT,
)
