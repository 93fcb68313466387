"""Gram matrices of slices in float64, and the best rank-j approximation of every slice from them.

Matrices are scaled by powers of two to near 1, so that their squares stay in range. Multiplying by
a power of two rounds nothing: sums, products and eigenvectors of the scaled matrix are those of the
matrix itself, bit for bit, as long as nothing leaves the range.

Source: Liebenwein et al., NeurIPS 2021, supplement A.3 (Eckart-Young). The paper puts all singular
values into the first half. Here each half carries their square roots, which gives the same product
and treats both halves alike in retraining and in half precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import frexp
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 16 << 20
"""Bytes of weights that are converted to float64 at a time."""

_STRIPE = 512
"""Rows of a large Gram matrix that are multiplied together, up to the diagonal only."""


def slice_ranges(k: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) over k slices of `nbytes` each, as many together as fit into a chunk."""
    together = max(1, CHUNK_BYTES // nbytes)
    for start in range(0, k, together):
        yield start, min(start + together, k)


def slice_blocks(
    matrix: Tensor, k: int, start: int, stop: int, exponent: int = 0
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the slices start … stop - 1 out of k in float64, in blocks that fit into a chunk.

    A slice that is wider than high is cut along its columns, any other along its rows, so that
    the smaller Gram matrix of the slice is the sum of those of its blocks.

    Args:
        matrix: (rows, c, q) as `fold.fold` gives it, of any floating dtype.
        k: number of slices, a divisor of c.
        start: the first slice.
        stop: one past the last slice.
        exponent: exponent of the power of two that the entries are divided by.

    Yields:
        The range of the longer axis, and (stop - start, rows, columns / k) within it.
    """
    rows, channels, width = matrix.shape
    step = channels // k
    count = stop - start
    piece = matrix[:, start * step : stop * step].view(rows, count, step, width)
    if rows <= step * width:
        together = max(1, CHUNK_BYTES // (8 * count * rows * width))
        for first in range(0, step, together):
            block = piece[:, :, first : first + together]
            columns = slice(first * width, min(first + together, step) * width)
            yield columns, _prepared(block, exponent)
    else:
        together = max(1, CHUNK_BYTES // (8 * count * step * width))
        for first in range(0, rows, together):
            block = piece[first : first + together]
            yield slice(first, first + len(block)), _prepared(block, exponent)


def _prepared(block: Tensor, exponent: int) -> Tensor:
    """Return (rows, count, channels, q) as scaled float64 of shape (count, rows, channels · q)."""
    moved = block.to(torch.float64).flatten(2).transpose(0, 1)
    if not exponent:
        return moved
    power = 2.0**-exponent
    # Weights in float64 have not been copied, and must not be changed.
    return moved * power if moved.data_ptr() == block.data_ptr() else moved.mul_(power)


def slice_grams(matrix: Tensor, k: int, start: int, stop: int, exponent: int = 0) -> Tensor:
    """Return the smaller Gram matrix of each slice: (b, n, n), n = min(rows, columns / k).

    It is M Mᵀ where a slice is at least as wide as high, else Mᵀ M. The arguments are those of
    `slice_blocks`.
    """
    rows, channels, width = matrix.shape
    wide = rows <= channels // k * width
    size = rows if wide else channels // k * width
    if size > 2 * _STRIPE and stop - start == 1:
        blocks = (block[0] for _, block in slice_blocks(matrix, k, start, stop, exponent))
        return gram_of_blocks(blocks if wide else (block.mT for block in blocks), size)[None]
    grams: Tensor | None = None
    for _, block in slice_blocks(matrix, k, start, stop, exponent):
        left, right = (block, block.mT) if wide else (block.mT, block)
        grams = left @ right if grams is None else grams.baddbmm_(left, right)
    if grams is None:
        raise ValueError("a matrix needs at least one row and one channel")
    return grams


def gram_of_blocks(blocks: Iterable[Tensor], size: int) -> Tensor:
    """Return Σ B Bᵀ over blocks B of `size` rows, from little more than half of the products.

    The part below the diagonal is computed and mirrored.
    """
    gram = torch.zeros(size, size, dtype=torch.float64)
    for block in blocks:
        add_gram(gram, block, _STRIPE)
    return mirrored(gram)


def add_gram(total: Tensor, factor: Tensor, stripe: int, *, sign: int = 1) -> Tensor:
    """Add ± X Xᵀ to (n, n) in place, below the diagonal and little more.

    Args:
        total: the matrix, of the factor's type and on its device.
        factor: X, (n, m).
        stripe: rows of the product that are formed together. The sum does not depend on it, but
            the rounding of its last bits may.
        sign: 1 to add the product, -1 to subtract it.
    """
    for first in range(0, len(total), stripe):
        last = min(first + stripe, len(total))
        total[first:last, :last].addmm_(factor[first:last], factor[:last].mT, alpha=sign)
    return total


def mirrored(gram: Tensor) -> Tensor:
    """Mirror the part of (n, n) below the diagonal to above it, in place.

    On some processors the two halves of a product X Xᵀ do not even round alike.
    """
    for first in range(0, len(gram), _STRIPE):
        last = min(first + _STRIPE, len(gram))
        gram[:first, first:last] = gram[first:last, :first].mT
        corner = gram[first:last, first:last]
        corner.copy_(corner.tril() + corner.tril(-1).mT)
    return gram


def solve_in_place(gram: Tensor, *, driver: str, **wanted: Any) -> Any:
    """Call `scipy.linalg.eigh` in the memory of one matrix (n, n), which is overwritten.

    A symmetric matrix equals its transpose, which has the order that LAPACK works in.

    Args:
        gram: float64, on the CPU.
        driver: the LAPACK routine.
        wanted: which eigenvalues and vectors to compute, as arguments of `eigh`.
    """
    import scipy.linalg  # noqa: PLC0415 - slow to import, and seldom needed

    return scipy.linalg.eigh(
        gram.numpy().T, driver=driver, overwrite_a=True, check_finite=False, **wanted
    )


_LEAST = -1020
"""Below this exponent the inverse power of two would itself leave the range of float64."""

_USUAL = 100
"""Squares of numbers between 2**-this and 2**this, their sums, and the rounding errors of these are
all in range without scaling."""


def even_exponent(*tensors: Tensor) -> int:
    """Return the nearly least even e such that the product of the largest magnitudes is ≤ 2**e.

    It is even, so that the square root of 2**e is a power of two as well.
    """
    exponent = 0
    for tensor in tensors:
        low, high = torch.aminmax(tensor)
        largest = max(-low.item(), high.item())
        if largest == 0:
            return _LEAST
        exponent += frexp(largest)[1]
    return max(exponent + exponent % 2, _LEAST)


def unit_exponent(*tensors: Tensor) -> int:
    """Return the even e such that 2**-e times the tensors can be squared; 0 for usual magnitudes.

    Norms, singular values and errors of a layer are stored in units of 2**e, with the e of its
    weight. Squares are then as exact for weights near the ends of float64 as for any others.
    """
    exponent = max((even_exponent(tensor) for tensor in tensors if tensor.numel()), default=0)
    if abs(exponent) <= _USUAL or not any(tensor.any() for tensor in tensors):
        return 0
    return exponent


def in_units(tensor: Tensor, exponent: int) -> Tensor:
    """Return 2**-exponent times a tensor, in float64; the tensor itself if the exponent is 0."""
    return scaled(tensor, exponent) if exponent else tensor


def scaled(tensor: Tensor, exponent: int) -> Tensor:
    """Return 2**-exponent times a tensor, in float64; with exponent 0 a float64 tensor itself."""
    exact = tensor.to(torch.float64)
    if not exponent:
        return exact
    power = 2.0**-exponent
    return exact * power if exact.data_ptr() == tensor.data_ptr() else exact.mul_(power)


class ScaledFactors(NamedTuple):
    """Factors, and the exponents of the powers of two to divide each by before multiplying."""

    left: Tensor
    right: Tensor
    left_exponent: int
    right_exponent: int


def scaled_factors(left: Tensor, right: Tensor, exponent: int) -> ScaledFactors:
    """Return two factors with exponents that add up to `exponent`, one to divide each by.

    Their product itself may be too small to be represented. `exponent` is at least about that of
    the product of their largest magnitudes.
    """
    first = min(even_exponent(left), exponent - _LEAST)
    return ScaledFactors(left, right, first, exponent - first)


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
