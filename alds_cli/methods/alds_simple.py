"""ALDS-Simple: the number of slices and every layer's compression ratio are fixed.

This is an ablation that shows how much allocating by error gains.

Source: Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, supplement C.3, item 3.
"""

from __future__ import annotations

from alds_cli.allocation import Problem
from alds_cli.methods.equalising import constant_ratio, sliced_options, slices_asked
from alds_cli.methods.method import ALDS_PAPER, Method
from alds_cli.records import Plan


def plan(problem: Problem) -> Plan:
    """Remove the same fraction of every layer, in `k` slices.

    Raises:
        OptionError: k makes no sense.
        ValueError: the budgets cannot be met.
    """
    k = slices_asked(problem.arguments)
    return constant_ratio(problem, sliced_options(problem, "frobenius", k), "alds-simple")


METHOD = Method(
    "k slices in every layer, the same ratio in all",
    f"{ALDS_PAPER}, supplement C.3",
    plan,
    arguments={"k": 3},
    checks=(slices_asked,),
)
