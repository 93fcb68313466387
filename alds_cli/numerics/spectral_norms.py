"""Spectral norms of weights, and of the difference between a weight and its pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ldexp, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from alds_cli.numerics.fold import fold, unfold
from alds_cli.numerics.grams import (
    CHUNK_BYTES,
    ScaledFactors,
    even_exponent,
    gram_of_blocks,
    scaled,
    scaled_factors,
)
from alds_cli.schemes import OPERATOR

_DENSE_EIGENVALUES = 512
"""Up to this side all eigenvalues of a Gram matrix are computed, beyond it one by Lanczos."""


def residual_norm(
    matrix: Tensor, left: Tensor, right: Tensor, groups: int = 1, unit: int = 0
) -> float:
    """Return ‖M − M̂‖₂ / 2**unit, from the Gram matrix of the difference in float64.

    M̂ = [L_1 R_1 … L_k R_k]. For a layer with groups it is block diagonal, with a block of this
    form for each group, so the norm is the largest of the groups' norms.

    Args:
        matrix: M, (rows, c, q) as `fold.fold` gives it, the rows group by group.
        left: (groups·k, rows / groups, j), any floating dtype, group by group.
        right: (groups·k, j, c·q / k).
        groups: the groups of the layer, a divisor of the rows.
        unit: exponent of the power of two in which the norm is given (`grams.unit_exponent`).
    """
    parts = zip(matrix.chunk(groups), left.chunk(groups), right.chunk(groups), strict=True)
    return max(_difference_norm(*part, unit) for part in parts)


def operator_residual(
    weight: Tensor, left: Tensor, right: Tensor, scheme: int, groups: int = 1, unit: int = 0
) -> float:
    """Return ‖W − Ŵ‖₂ / 2**unit folded by scheme 0, whatever the scheme of the factors.

    This is the error of the layer's operator, so that errors of different schemes are comparable.

    Args:
        weight: W, (f, c/g, κ…), of any floating dtype.
        left: (groups·k, rows / groups, j), with the rows and columns of the factors' scheme.
        right: (groups·k, j, columns / k).
        scheme: the folding scheme of the factors.
        groups: g, the groups of the layer.
        unit: exponent of the power of two in which the norm is given (`grams.unit_exponent`).
    """
    matrix = fold(weight, scheme)
    if scheme == OPERATOR:
        return residual_norm(matrix, left, right, groups, unit)
    kernel = tuple(weight.shape[2:])
    share = len(matrix) // len(weight)

    def refolded(block: Tensor) -> Tensor:
        outputs = len(block) // share
        channels = block.numel() // (outputs * prod(kernel))
        return fold(unfold(block, (outputs, channels, *kernel), scheme), OPERATOR).flatten(1)

    parts = zip(matrix.chunk(groups), left.chunk(groups), right.chunk(groups), strict=True)
    return max(_difference_norm(*part, unit, _Refolding(share, refolded)) for part in parts)


def operator_norm(weight: Tensor, groups: int = 1, unit: int = 0) -> float:
    """Return ‖W‖₂ / 2**unit of a weight (f, c/g, κ…) folded by scheme 0, over all groups."""
    return max(spectral_norm(part.flatten(1), unit) for part in weight.chunk(groups))


def spectral_norm(matrix: Tensor, unit: int = 0) -> float:
    """Return ‖M‖₂ / 2**unit of a matrix (rows, columns), from its Gram matrix in float64."""
    nothing = matrix.new_zeros((1, len(matrix), 1)), matrix.new_zeros((1, 1, matrix.shape[1]))
    return _difference_norm(matrix.unsqueeze(2), *nothing, unit)


class _Refolding(NamedTuple):
    """The way blocks of a difference become blocks of the layer's operator, which has fewer rows.

    Attributes:
        share: the number of rows that become one, which multiplies the columns.
        block: maps whole such rows and whole channels, (m·rows, n), to (rows, m·n).
    """

    share: int
    block: Callable[[Tensor], Tensor]


_AS_THEY_ARE = _Refolding(1, lambda block: block)


def _difference_norm(
    matrix: Tensor,
    left: Tensor,
    right: Tensor,
    unit: int,
    refolding: _Refolding = _AS_THEY_ARE,
) -> float:
    """Return the norm ‖M − [L_1 R_1 … L_k R_k]‖₂ of one group, computed at a scale near 1."""
    share = refolding.share
    rows, columns = len(matrix) // share, matrix[0].numel() * share
    wide = rows <= columns
    size = rows if wide else columns
    products = (even_exponent(*pair) for pair in zip(left, right, strict=True))
    exponent = max(even_exponent(matrix), *products)
    factors = scaled_factors(left, right, exponent)
    if wide:
        blocks = _column_blocks(matrix, factors, exponent)
    else:
        blocks = _row_blocks(matrix, factors, exponent, share)
    parts = (refolding.block(block) for block in blocks)
    gram = gram_of_blocks(parts if wide else (part.mT for part in parts), size)
    return ldexp(sqrt(max(_largest_eigenvalue(gram), 0.0)), exponent - unit)


def _column_blocks(matrix: Tensor, factors: ScaledFactors, exponent: int) -> Iterator[Tensor]:
    """Yield the scaled difference in float64, some channels of one slice at a time: (rows, b·q).

    The sign of the difference does not matter, and this one takes less memory.
    """
    rows, channels, width = matrix.shape
    left, right = factors.left, factors.right
    step = channels // len(left)
    together = min(step, max(1, CHUNK_BYTES // (8 * rows * width)))
    for index in range(len(left)):
        slice_left = scaled(left[index], factors.left_exponent)
        for start in range(0, step, together):
            stop = min(start + together, step)
            dense = scaled(matrix[:, index * step + start : index * step + stop], exponent)
            part = right[index, :, start * width : stop * width]
            part_right = scaled(part, factors.right_exponent)
            yield (slice_left @ part_right).sub_(dense.flatten(1))


def _row_blocks(
    matrix: Tensor, factors: ScaledFactors, exponent: int, share: int
) -> Iterator[Tensor]:
    """Yield the scaled difference in float64, multiples of `share` rows at a time: (b, c·q)."""
    rows, channels, width = matrix.shape
    together = min(rows, share * max(1, CHUNK_BYTES // (8 * share * channels * width)))
    scaled_right = scaled(factors.right, factors.right_exponent)
    for start in range(0, rows, together):
        dense = scaled(matrix[start : start + together], exponent).flatten(1)
        scaled_left = scaled(factors.left[:, start : start + together], factors.left_exponent)
        product = scaled_left @ scaled_right
        yield product.transpose(0, 1).flatten(1).sub_(dense)


def _largest_eigenvalue(gram: Tensor) -> float:
    """Return the largest eigenvalue of a positive semidefinite matrix, to about 1e-12 relative."""
    if len(gram) <= _DENSE_EIGENVALUES:
        return float(torch.linalg.eigvalsh(gram)[-1])
    if not gram.any():
        return 0.0
    from scipy.sparse.linalg import eigsh  # noqa: PLC0415 - slow to import and seldom needed

    # A fixed start makes the result repeatable; its unequal entries prevent symmetries of the
    # weights from making it orthogonal to the eigenvector.
    start = 1 + torch.arange(len(gram), dtype=torch.float64) / len(gram)
    found = eigsh(
        gram.numpy(), k=1, which="LA", v0=start.numpy(), tol=1e-12, return_eigenvectors=False
    )
    return float(found[0])
