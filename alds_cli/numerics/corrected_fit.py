"""Pairs that correct what earlier layers have changed in their inputs.

A layer W was given x, and the pair in its place is given x̂. Of all weights, that with the least
E‖Wx − Ŵx̂‖² is T = W A B⁻¹, with A = E[x x̂ᵀ] and B = E[x̂ x̂ᵀ], and of every other one

    E‖Wx − Ŵx̂‖² = E‖Wx − Tx̂‖² + tr((T − Ŵ) B (T − Ŵ)ᵀ).

So the pair is the one that is closest to T in the norm of x̂. A share of `DAMPING` of the mean of B
draws T towards W in directions with few inputs, where a sample tells little of the change.

Source: Zhang, Zou, He, Sun, TPAMI 2016, https://arxiv.org/abs/1505.06798, Sec. 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alds_cli.numerics.data_norm import damped_solve, data_factors

DAMPING = 1e-2
"""The share of the mean moment that draws the target towards the original weight."""


def corrected_factors(
    weight: Tensor,
    cross: Tensor,
    moments: Tensor,
    channels: int,
    k: int,
    j: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return left (g·k, f/g, j) and right (g·k, j, n/k) that are closest to the corrected layer.

    Args:
        weight: W, (g, f/g, n) in float64.
        cross: W E[x x̂ᵀ], likewise.
        moments: E[x̂ x̂ᵀ], (g, n, n) in float64.
        channels: the input channels of a group, c.
        k: number of slices in a group, a divisor of c.
        j: rank, 1 ≤ j ≤ min(f / g, n / k).
        dtype: the type of the factors.
    """
    damping = DAMPING * float(moments.diagonal(dim1=1, dim2=2).mean())
    unit = torch.eye(moments.shape[-1], dtype=moments.dtype)
    target = weight
    if damping > 0:
        given = cross + damping * weight
        solved = [
            damped_solve(own, want.mT, damping).mT for own, want in zip(moments, given, strict=True)
        ]
        target = torch.stack(solved)
    matrix = target.reshape(target.shape[0] * target.shape[1], channels, -1)
    left, right, _ = data_factors(matrix, moments + damping * unit, k, j, dtype)
    return left, right
