"""The best rank-j approximation of every slice, as a balanced pair of factors.

Source: Liebenwein et al., NeurIPS 2021, supplement A.3 (Eckart-Young). The paper puts
all singular values into the first half; here each half carries their square roots, which
is the same product, and treats both halves alike in retraining and in half precision.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from alds_cli.numerics.spectra import CHUNK_BYTES


def low_rank_factors(matrix: Tensor, k: int, j: int) -> tuple[Tensor, Tensor]:
    """Factors of the rank-j approximation of each of k slices.

    The projection on the leading eigenvectors of the smaller Gram matrix, in float64.
    Deterministic given one BLAS thread: each singular pair's sign is fixed by making the
    entry of largest magnitude on the eigenvectors' side positive.

    Args:
        matrix: (rows, c, q) as `fold.fold` gives it.
        k: number of slices, a divisor of c.
        j: rank, 1 ≤ j ≤ min(rows, c·q / k).

    Returns:
        left (k, rows, j) and right (k, j, c·q / k) in float64.
    """
    rows, channels, width = matrix.shape
    columns = channels // k * width
    left = torch.empty(k, rows, j, dtype=torch.float64)
    right = torch.empty(k, j, columns, dtype=torch.float64)
    for start, piece in _slice_chunks(matrix, k):
        stop = start + len(piece)
        if rows <= columns:
            basis = _leading_eigenvectors(piece @ piece.mT, j)
            left[start:stop] = basis
            torch.matmul(basis.mT, piece, out=right[start:stop])
        else:
            basis = _leading_eigenvectors(piece.mT @ piece, j)
            right[start:stop] = basis.mT
            torch.matmul(piece, basis, out=left[start:stop])
    return _balance(left, right)


def _slice_chunks(matrix: Tensor, k: int) -> Iterator[tuple[int, Tensor]]:
    """(first slice, slices in float64 as (b, rows, columns / k)), b as memory allows."""
    rows, channels, width = matrix.shape
    step = channels // k
    together = max(1, CHUNK_BYTES // (8 * rows * step * width))
    for start in range(0, k, together):
        stop = min(start + together, k)
        piece = matrix[:, start * step : stop * step].to(torch.float64)
        yield start, piece.reshape(rows, stop - start, -1).transpose(0, 1)


def _leading_eigenvectors(grams: Tensor, j: int) -> Tensor:
    """Orthonormal (b, n, j), for the j largest eigenvalues of (b, n, n), largest first."""
    vectors: Tensor = torch.linalg.eigh(grams)[1][..., -j:].flip(-1)
    peaks = vectors.gather(-2, vectors.abs().argmax(dim=-2, keepdim=True))
    return torch.where(peaks < 0, -vectors, vectors)


def _balance(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Give columns of left and rows of right the same norm; a zero product stays as it is."""
    ratio = (left.norm(dim=1) / right.norm(dim=2)).sqrt()
    scale = torch.where((ratio > 0) & ratio.isfinite(), ratio, torch.ones_like(ratio))
    return left.div_(scale[:, None, :]), right.mul_(scale[:, :, None])
