"""Singular values of slices, and the singular vectors on the smaller side: two ways to them.

For a slice M_i that is no higher than wide these are the left ones, else the right ones. Both
functions take a matrix (rows, c, q), the number k of its slices, the range of those wanted and the
exponent of the power of two that entries are divided by, as `grams.slice_grams` does, and give
values (b, n), largest first, and bases (b, n, n) in float64, n = min(rows, c·q / k).
"""

from __future__ import annotations

import torch
from torch import Tensor

from alds_cli.numerics.grams import slice_blocks, slice_grams


def coarse_bases(
    matrix: Tensor, k: int, start: int, stop: int, exponent: int
) -> tuple[Tensor, Tensor]:
    """From Gram matrices: squares of the values are right to about 1e-15 σ_1²."""
    squares, vectors = torch.linalg.eigh(slice_grams(matrix, k, start, stop, exponent))
    return squares.flip(-1).clamp_(min=0).sqrt_(), vectors.flip(-1)


def fine_bases(
    matrix: Tensor, k: int, start: int, stop: int, exponent: int
) -> tuple[Tensor, Tensor]:
    """From triangular factors, no square being formed: values are right to about 1e-15 σ_1."""
    found = [
        torch.linalg.svd(triangular_factor(matrix, k, index, exponent))
        for index in range(start, stop)
    ]
    return torch.stack([sigma for _, sigma, _ in found]), torch.stack([vh.mT for *_, vh in found])


def triangular_factor(matrix: Tensor, k: int, index: int, exponent: int) -> Tensor:
    """R (n, n) with Rᵀ R the smaller Gram matrix of one slice, without forming that.

    It is that of the QR decomposition of the slice, stood upright, found block by block.
    """
    rows, channels, width = matrix.shape
    columns = channels // k * width
    factor = torch.empty(0, min(rows, columns), dtype=torch.float64)
    for _, block in slice_blocks(matrix, k, index, index + 1, exponent):
        upright = block[0].mT if rows <= columns else block[0]
        _, factor = torch.linalg.qr(torch.cat([factor, upright]), mode="r")
    return factor
