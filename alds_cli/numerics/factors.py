"""The best rank-j approximation of every slice, as a balanced pair of factors.

Source: Liebenwein et al., NeurIPS 2021, supplement A.3 (Eckart-Young). The paper puts all singular
values into the first half. Here each half carries their square roots, which gives the same product
and treats both halves alike in retraining and in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alds_cli.numerics.grams import (
    even_exponent,
    slice_blocks,
    slice_grams,
    slice_ranges,
    solve_in_place,
)

_ALL_VECTORS = 1024
"""Up to this side all eigenvectors are computed, batched; beyond it only the leading ones."""


def low_rank_factors(
    matrix: Tensor, k: int, j: int, dtype: torch.dtype = torch.float64, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the factors of the rank-j approximation of each of k slices in each group.

    The approximation is the projection on the leading eigenvectors of the smaller Gram matrix, in
    float64. It is deterministic on one BLAS thread: the sign of each singular pair makes the entry
    of largest magnitude on the eigenvectors' side positive.

    Args:
        matrix: (rows, c, q) as `fold.fold` gives it, the rows group by group.
        k: number of slices in a group, a divisor of c.
        j: rank, 1 ≤ j ≤ min(rows / groups, c·q / k).
        dtype: the type of the factors.
        groups: the groups of the layer, a divisor of the rows.

    Returns:
        left (groups·k, rows / groups, j) and right (groups·k, j, c·q / k), group by group.

    Source: Liebenwein et al., NeurIPS 2021, supplement A.3.
    """
    rows, channels, width = matrix.shape
    left = torch.empty(groups * k, rows // groups, j, dtype=dtype)
    right = torch.empty(groups * k, j, channels // k * width, dtype=dtype)
    parts = zip(matrix.chunk(groups), left.chunk(groups), right.chunk(groups), strict=True)
    for part, group_left, group_right in parts:
        _fill_factors(part, group_left, group_right)
    return left, right


def _fill_factors(matrix: Tensor, left: Tensor, right: Tensor) -> None:
    """Write the factors of one group's slices.

    Gram matrices are formed from 2**-exponent times the matrix, since their entries might leave
    the range otherwise. The exponent is even, so that its square root is exact as well.
    """
    k, rows, j = left.shape
    columns = right.shape[2]
    exponent = even_exponent(matrix)
    for start, stop in slice_ranges(k, 8 * rows * columns):
        values, basis = leading_eigenpairs(slice_grams(matrix, k, start, stop, exponent), j)
        scale = balance(values, 2.0 ** (exponent // 2))
        if rows <= columns:
            left[start:stop] = basis * scale
            basis = (basis / scale).mT
            for part, block in slice_blocks(matrix, k, start, stop):
                right[start:stop, :, part] = (basis @ block).to(right.dtype)
        else:
            right[start:stop] = (basis * scale).mT
            basis = basis / scale
            for part, block in slice_blocks(matrix, k, start, stop):
                left[start:stop, part] = (block @ basis).to(left.dtype)


def leading_eigenpairs(grams: Tensor, j: int) -> tuple[Tensor, Tensor]:
    """Return the j largest eigenvalues (b, j), largest first, and orthonormal vectors (b, n, j).

    The sign of each vector makes its entry of largest magnitude positive. Large matrices
    (b, n, n) are overwritten.
    """
    size = grams.shape[-1]
    if size <= _ALL_VECTORS:
        values, vectors = torch.linalg.eigh(grams)
        values, vectors = values[:, -j:].flip(-1), vectors[:, :, -j:].flip(-1)
    else:
        values = grams.new_empty(len(grams), j)
        vectors = grams.new_empty(len(grams), size, j)
        for index, gram in enumerate(grams):
            values[index], vectors[index] = _large_eigenpairs(gram, j)
    flipped = -vectors.amin(dim=-2, keepdim=True) > vectors.amax(dim=-2, keepdim=True)
    # In place, since the vectors of a large layer take as much memory as anything else.
    return values, vectors.mul_(1 - 2 * flipped.to(vectors.dtype))


def _large_eigenpairs(gram: Tensor, j: int) -> tuple[Tensor, Tensor]:
    """Return the j largest eigenvalues (j,) and their vectors (n, j); the matrix is overwritten."""
    size = len(gram)
    values, vectors = solve_in_place(gram, driver="evr", subset_by_index=[size - j, size - 1])
    return torch.from_numpy(values).flip(-1), torch.from_numpy(vectors).flip(-1)


def balance(eigenvalues: Tensor, root: float) -> Tensor:
    """Return √σ for each pair, as (b, 1, j), which scales both factors' vectors to equal norms.

    Pairs that are zero up to rounding are scaled as the largest is. Otherwise one half would have
    entries so much smaller than all others that a type of few bits could not hold them.

    Args:
        eigenvalues: (b, j), of Gram matrices of 1 / root² times the slices.
        root: the square root of the number that the slices were divided by.
    """
    sigma = eigenvalues.clamp(min=0).sqrt()
    largest = sigma.amax(dim=-1, keepdim=True)
    scale = torch.where(sigma <= 1e-7 * largest, largest, sigma).sqrt() * root
    return torch.where(largest > 0, scale, torch.ones_like(scale))[:, None, :]
