"""SVD-Energy: every layer keeps the same share of its energy, the sum of σ².

Source: Alvarez, Salzmann, NeurIPS 2017, Sec. 3.2; Wen et al., ICCV 2017; in the form of the
comparison in Liebenwein et al., NeurIPS 2021, supplement B.4, item 2.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alds_cli.allocation import Problem
from alds_cli.methods.equalising import equalised, sliced_options
from alds_cli.methods.method import Method
from alds_cli.records import Plan


def plan(problem: Problem) -> Plan:
    """Lose the same share Σ_{m>j} σ²_m / Σ σ²_m of every layer's energy, in one slice.

    Raises:
        ValueError: the budgets cannot be met.
    """
    # The square of ‖W − Ŵ‖_F / ‖W‖_F is that share.
    layers = [
        replace(options, errors=np.square(options.errors))
        for options in sliced_options(problem, "frobenius", 1)
    ]
    return equalised(problem, layers, "svd-energy")


METHOD = Method(
    "one slice, the same share of Σσ² kept in every layer",
    "Alvarez, Salzmann, NeurIPS 2017, https://arxiv.org/abs/1711.02638, Sec. 3.2; "
    "Wen et al., ICCV 2017, https://arxiv.org/abs/1703.09746",
    plan,
)
