"""SVD: one truncated singular value decomposition per layer, with the same ratio in all.

Source: Denton, Zaremba, Bruna, LeCun, Fergus, NeurIPS 2014, Sec. 3.2, in the form of the
comparison in Liebenwein et al., NeurIPS 2021, supplement B.4, item 3.
"""

from __future__ import annotations

from alds_cli.allocation import Problem
from alds_cli.methods.equalising import constant_ratio, sliced_options
from alds_cli.methods.method import Method
from alds_cli.records import Plan


def plan(problem: Problem) -> Plan:
    """Remove the same fraction of every layer, in one slice.

    Raises:
        ValueError: the budgets cannot be met.
    """
    return constant_ratio(problem, sliced_options(problem, "frobenius", 1), "svd")


METHOD = Method(
    "one slice in every layer, the same ratio in all",
    "Denton, Zaremba, Bruna, LeCun, Fergus, NeurIPS 2014, "
    "https://arxiv.org/abs/1404.0736, Sec. 3.2",
    plan,
)
