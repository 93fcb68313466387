"""The numbers of slices that need no spectrum, because none of their options can be the best.

Two proofs are used, both about costs j·(k·rows + groups·columns), which rise with k and j:

- An option that is not smaller than the layer is never chosen.
- If the matrix (of each group, where there are groups) has rank R, the pair of one slice and
  rank R loses nothing. No option that costs as much can do better, by any measure of error.

More cannot be derived from the spectrum of one slice. A pair of k slices and rank j has rank k·j
at most, so that ‖W − Ŵ‖₂ ≥ σ_{kj+1}(W) (Weyl); but one slice for the same cost has rank
j' = ⌊j·(k·rows + columns) / (rows + columns)⌋ ≤ k·j and loses σ_{j'+1} ≥ σ_{kj+1}: it is proven
as good only where the two are equal, which is where both are zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from alds_cli.numerics.costs import divisors, pair_params, rank_params
from alds_cli.numerics.grams import even_exponent
from alds_cli.numerics.option_tables import rounding_share
from alds_cli.numerics.shared_grams import Slicing
from alds_cli.records import FloatArray

_SAMPLE = 32
_LEAST_WORK = 2e9
"""Sum of cubed sides below which even a look at a sample takes too long."""

_WORTH_A_PROOF = 0.1
"""The share of the work that must be at stake before one slice is done ahead of the others."""


def shrinking_ks(shape: tuple[int, ...], scheme: int, groups: int = 1) -> tuple[int, ...]:
    """Return the numbers of slices with an option smaller than the layer, and 1 for the norm.

    Args:
        shape: the shape of the weight, (f, c / groups, κ…).
        scheme: the folding scheme.
        groups: the groups of the layer.
    """
    size = int(np.prod(shape))
    return tuple(
        k for k in divisors(shape[1]) if k == 1 or pair_params(shape, scheme, k, 1, groups) < size
    )


def ks_that_can_win(slicing: Slicing, ks: Sequence[int], rank: int) -> list[int]:
    """Return the ks with an option cheaper than one slice of that rank, and 1 itself."""
    exact = max(rank, 1) * _unit(slicing, 1)
    return [k for k in ks if k == 1 or _unit(slicing, k) < exact]


def numerical_rank(eigenvalues: FloatArray, terms: int) -> int:
    """Return the highest rank of any group, from squared singular values (groups, 1, n).

    Values that rounding may have produced do not count.
    """
    floor = rounding_share(terms) * np.maximum(eigenvalues, 0.0).sum(axis=2, keepdims=True)
    return int((eigenvalues > floor).sum(axis=2).max())


def worth_a_proof(slicing: Slicing, ks: Sequence[int]) -> bool:
    """Return whether a low rank may save much work; False for nearly all layers, at little cost.

    The rank of a few rows and columns of the first group is no larger than the matrix's.
    """
    work = {k: k * slicing.side(k) ** 3 for k in ks}
    if len(slicing.matrix) * sum(work.values()) < _LEAST_WORK:
        return False
    least = _unit(slicing, 1) * max(1, _rank_of_a_sample(slicing))
    at_stake = sum(work[k] for k in ks if k > 1 and _unit(slicing, k) >= least)
    return at_stake > _WORTH_A_PROOF * sum(work.values())


def _unit(slicing: Slicing, k: int) -> int:
    """Return the cost of one rank in every slice."""
    groups, rows, channels, width = slicing.matrix.shape
    return rank_params(groups * rows, channels * width, k, groups)


def _rank_of_a_sample(slicing: Slicing) -> int:
    """Return a lower bound on the rank of the first group's matrix."""
    first = slicing.matrix[0]
    rows, channels, width = first.shape
    every = max(1, channels * width // _SAMPLE)
    some = first[:: max(1, rows // _SAMPLE), :: max(1, every // width)]
    sample = slicing.prepared(some).flatten(1)[:, : 2 * _SAMPLE]
    # The trace separates squared singular values of the whole from rounding, and this is an
    # upper bound on it. Where it is far above, too few are counted, which costs only time.
    trace = first.numel() * 4.0 ** (even_exponent(first) - slicing.exponent)
    floor = rounding_share(rows + channels * width) * trace
    return int((torch.linalg.svdvals(sample).square() > floor).sum())
