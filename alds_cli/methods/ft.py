"""Filter pruning by norms: `ft`.

Every group of channels loses the same fraction of its filters, those with the smallest ℓ2 norm.

Source: Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017,
https://arxiv.org/abs/1608.08710, Sec. 3.1, with the ℓ2 norm and the constant ratio of the ALDS
paper's comparison (supplement B.4, item 5). Where outputs of layers are added up, their filters are
removed together. Li et al. (Sec. 3.3) let one of these layers decide; here the norm is that of all
filters that would be removed, taken as one vector.
"""

from __future__ import annotations

import numpy as np

from alds_cli.allocation.channel_pruning import PruningProblem, Removal, remove_in_order
from alds_cli.methods.method import Method


def prune(problem: PruningProblem) -> Removal:
    """Remove the same fraction of every group, the smallest that meets the budgets.

    A fraction φ of n channels is rounded to the nearest whole number, so the r-th channel is
    removed from φ = (r − ½) / n on. Of groups whose next channel is due at the same φ, only some
    may lose it.

    Returns:
        The removed channels; the objective is the fraction.

    Raises:
        InfeasibleError: even one channel in every group is too much.
    """
    return remove_in_order(
        problem,
        [group.norms for group in problem.groups],
        [(np.arange(1, group.size) - 0.5) / group.size for group in problem.groups],
    )


METHOD = Method(
    "removes the filters of least ℓ2 norm, the same fraction in every layer",
    "Li, Kadav, Durdanovic, Samet, Graf, ICLR 2017, https://arxiv.org/abs/1608.08710, Sec. 3.1",
    None,
    prune=prune,
    targets=("params", "macs", "bytes"),
)
