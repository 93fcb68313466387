"""Eigenvalues of symmetric matrices, given by their lower triangles, and spectral norms.

All eigenvalues are computed, or the largest alone. The norms are those of weights, and of the
difference between a weight and its pair.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from functools import cache
from math import inf, ldexp, prod, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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
    solve_in_place,
)
from alds_cli.records import OPERATOR, FloatArray

_LIBRARIES = {"Linux": "lib/libtorch_cpu.so", "Darwin": "lib/libtorch_cpu.dylib"}


def eigenvalues(grams: Tensor) -> FloatArray:
    """Return the eigenvalues of matrices (b, n, n), largest first, as (b, n) in float64.

    The upper triangle of the transpose holds the same numbers in the order that LAPACK works in,
    and MKL is a sixth faster on it than on the lower one.
    """
    single = grams.shape[-1] == 1
    values = grams[:, :, 0] if single else torch.linalg.eigvalsh(grams.mT, UPLO="U")
    if values.dtype != torch.float64 or values.device.type != "cpu":
        values = values.to("cpu", torch.float64)
    found: FloatArray = values.numpy()[:, ::-1]
    return found


def eigenvalues_in_place(gram: Tensor) -> FloatArray:
    """Return the eigenvalues (n,), largest first, of a contiguous float64 matrix; overwrite it."""
    routine = _torch_lapack()
    if routine is None:
        # This takes two to three times as long and blocks all other threads meanwhile.
        return np.asarray(solve_in_place(gram, driver="evd", eigvals_only=True, lower=False)[::-1])
    size = ctypes.c_int(len(gram))
    found = np.empty(len(gram))
    lengths = ctypes.c_double(), ctypes.c_int()
    _call(routine, size, gram, found, ctypes.byref(lengths[0]), -1, ctypes.byref(lengths[1]), -1)
    work = np.empty(int(lengths[0].value)), np.empty(lengths[1].value, np.int32)
    _call(routine, size, gram, found, _at(work[0]), work[0].size, _at(work[1]), work[1].size)
    return found[::-1]


def _at(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _call(
    routine: Any,
    size: ctypes.c_int,
    gram: Tensor,
    found: FloatArray,
    work: Any,
    work_length: int,
    integers: Any,
    integers_length: int,
) -> None:
    """Call LAPACK's dsyevd without vectors; it reads the lower triangle of a matrix by rows."""
    info = ctypes.c_int()
    routine(
        b"N",
        b"U",
        ctypes.byref(size),
        ctypes.c_void_p(gram.data_ptr()),
        ctypes.byref(size),
        _at(found),
        work,
        ctypes.byref(ctypes.c_int(work_length)),
        integers,
        ctypes.byref(ctypes.c_int(integers_length)),
        ctypes.byref(info),
    )
    if info.value:
        raise np.linalg.LinAlgError(f"dsyevd did not succeed (info {info.value})")


@cache
def _torch_lapack() -> Any | None:
    """Return the routine that torch itself calls, or None where its library does not export it.

    `torch.linalg.eigvalsh` would copy the matrix, and SciPy would block all other threads; a call
    through ctypes does neither.
    """
    name = _LIBRARIES.get(platform.system())
    if name is None:
        return None
    try:
        routine = ctypes.CDLL(str(Path(torch.__file__).parent / name))["dsyevd_"]
    except (OSError, AttributeError):
        return None
    routine.restype = None
    return routine


_DENSE = 512
"""The largest side for which all eigenvalues are computed, which is as fast there."""

_STEPS = 160
"""Lanczos steps after which all eigenvalues are computed instead."""

_BETWEEN = 6
"""Lanczos steps between two computations of the Ritz values."""

_SETTLED = 5e-11
"""Estimated relative distance of θ from an eigenvalue at which the proof is tried."""

_PROVEN = 4e-10
"""Relative distance of μ from θ."""


def largest_eigenvalue(gram: Tensor) -> float:
    """Return λ_max of a positive semidefinite matrix (n, n) in float64, to 4e-10 of itself, proven.

    Lanczos steps give a Rayleigh quotient θ, so λ_max ≥ θ whatever the start vector missed. If
    μI − A has a Cholesky factor, no eigenvalue exceeds μ. With μ a little above θ, the two together
    enclose λ_max; where they do not meet, all eigenvalues are computed.

    The squares of the entries must be in range. The result is repeatable to the bit on one BLAS
    thread.

    Source: Parlett, The Symmetric Eigenvalue Problem, 1998, chapters 11 and 13 (Rayleigh-Ritz
    bounds, full reorthogonalisation); Sylvester's law of inertia for the proof.
    """
    size = len(gram)
    if size == 1:
        return max(float(gram[0, 0]), 0.0)
    if size <= _DENSE:
        return _largest_of_all(gram)
    if not float(gram.diagonal().amax()) > 0:
        return 0.0
    found = _lanczos(gram)
    return _largest_of_all(gram) if found is None else found


def eigenvalue_bytes(size: int) -> int:
    """Return the bytes that `largest_eigenvalue` takes beside the matrix (n, n).

    They are two copies of the matrix and the Lanczos vectors.
    """
    return 8 * (2 * size**2 + (_STEPS + 1) * size)


def _largest_of_all(gram: Tensor) -> float:
    return max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0)


def _lanczos(gram: Tensor) -> float | None:
    """Return a proven θ, or None where `_STEPS` steps do not converge or the proof fails."""
    size = len(gram)
    basis = gram.new_empty(min(_STEPS, size) + 1, size)
    basis[0] = _start(size)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(len(basis) - 1):
        product = gram @ basis[step]
        diagonal.append(float(product @ basis[step]))
        known = basis[: step + 1]
        for _ in range(2):  # a single pass leaves nearly parallel vectors far from orthogonal
            product.addmv_(known.T, known @ product, alpha=-1)
        beside.append(float(torch.linalg.vector_norm(product)))
        exhausted = beside[-1] <= 1e-14 * max(diagonal)
        if exhausted or (step + 1) % _BETWEEN == 0:
            theta, distance = _ritz(diagonal, beside)
            if distance <= _SETTLED * theta or exhausted:
                return theta if _none_above(gram, theta * (1 + _PROVEN)) else None
        torch.div(product, beside[-1], out=basis[step + 1])
    return None


def _start(size: int) -> Tensor:
    """Return a unit vector without symmetries that weights may have: multiples of √2, modulo 1."""
    steps = torch.arange(1, size + 1, dtype=torch.float64)
    vector = (steps * 2**0.5).frac_().sub_(0.5)
    return vector / float(torch.linalg.vector_norm(vector))


def _ritz(diagonal: list[float], beside: list[float]) -> tuple[float, float]:
    """Return the largest Ritz value and about how far below an eigenvalue it lies.

    With the residual r of its Ritz vector, the distance is at most ‖r‖, and at most ‖r‖² over the
    gap to the next eigenvalue, which the next Ritz value approximates.
    """
    count = len(diagonal)
    if count == 1:
        return diagonal[0], beside[0]
    import scipy.linalg  # noqa: PLC0415 - slow to import

    values, vectors = scipy.linalg.eigh_tridiagonal(
        np.array(diagonal), np.array(beside[:-1]), select="i", select_range=(count - 2, count - 1)
    )
    residual = beside[-1] * abs(float(vectors[-1, 1]))
    gap = float(values[1] - values[0])
    return float(values[1]), min(residual, residual**2 / gap if gap > 0 else inf)


def _none_above(gram: Tensor, limit: float) -> bool:
    """Return whether limit·I − A has a Cholesky factor: then no eigenvalue of A exceeds the limit.

    In floating point this holds up to about n² unit roundoffs, which is far less than `_PROVEN`.
    """
    shifted = gram.neg()
    shifted.diagonal().add_(limit)
    return not int(torch.linalg.cholesky_ex(shifted).info)


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


def norm_nbytes(weight: Tensor) -> int:
    """Return about how many bytes the norm of a difference from a weight (f, c/g, κ…) takes.

    They are those of the difference and of three Gram matrices.
    """
    rows = len(weight)
    return 8 * weight.numel() + 3 * 8 * min(rows, weight[0].numel()) ** 2


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
