"""All eigenvalues of symmetric matrices of which only the lower triangle counts."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from scipy.linalg import LinAlgError
from torch import Tensor

from alds_cli.numerics.grams import solve_in_place
from alds_cli.records import FloatArray

_LIBRARIES = {"Linux": "lib/libtorch_cpu.so", "Darwin": "lib/libtorch_cpu.dylib"}


def eigenvalues(grams: Tensor) -> FloatArray:
    """Largest first, (b, n) of (b, n, n), in float64.

    The upper triangle of the transpose is the same numbers, in the order that LAPACK works
    in, and there MKL is a sixth faster than on the lower one.
    """
    single = grams.shape[-1] == 1
    values = grams[:, :, 0] if single else torch.linalg.eigvalsh(grams.mT, UPLO="U")
    if values.dtype != torch.float64 or values.device.type != "cpu":
        values = values.to("cpu", torch.float64)
    found: FloatArray = values.numpy()[:, ::-1]
    return found


def eigenvalues_in_place(gram: Tensor) -> FloatArray:
    """Largest first, (n,) of one contiguous float64 matrix, in whose memory the work is done."""
    routine = _torch_lapack()
    if routine is None:
        # Two to three times as slow, and no other thread can do anything meanwhile.
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
    """LAPACK's dsyevd without vectors; of a matrix stored by rows the lower triangle is read."""
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
        raise LinAlgError(f"dsyevd did not succeed (info {info.value})")


@cache
def _torch_lapack() -> Any | None:
    """The routine that torch itself calls, where its library shows it.

    `torch.linalg.eigvalsh` would take a copy of the matrix, SciPy keeps all other threads
    waiting; a call through ctypes does neither.
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
"""Up to this side all eigenvalues are found at once, which is as quick."""

_STEPS = 160
"""Lanczos steps before all eigenvalues are computed after all."""

_BETWEEN = 6
"""Lanczos steps from one look at the Ritz values to the next."""

_SETTLED = 5e-11
"""Estimated relative distance of θ from an eigenvalue at which the proof is tried."""

_PROVEN = 4e-10
"""Relative distance of μ from θ."""


def largest_eigenvalue(gram: Tensor) -> float:
    """λ_max of a positive semidefinite matrix (n, n) in float64, to 4e-10 of itself.

    The squares of its entries must be in range. Repeatable to the bit given one BLAS thread.
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
    """Bytes that `largest_eigenvalue` takes beside the matrix (n, n): two copies, some vectors."""
    return 8 * (2 * size**2 + (_STEPS + 1) * size)


def _largest_of_all(gram: Tensor) -> float:
    return max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0)


def _lanczos(gram: Tensor) -> float | None:
    """A proven θ, or None where `_STEPS` steps do not settle or what they settle on is less."""
    size = len(gram)
    basis = gram.new_empty(min(_STEPS, size) + 1, size)
    basis[0] = _start(size)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(len(basis) - 1):
        product = gram @ basis[step]
        diagonal.append(float(product @ basis[step]))
        known = basis[: step + 1]
        for _ in range(2):  # once leaves the vectors as little orthogonal as they are close
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
    """A unit vector without the symmetries that weights may have: multiples of √2, modulo 1."""
    steps = torch.arange(1, size + 1, dtype=torch.float64)
    vector = (steps * 2**0.5).frac_().sub_(0.5)
    return vector / float(torch.linalg.vector_norm(vector))


def _ritz(diagonal: list[float], beside: list[float]) -> tuple[float, float]:
    """The largest Ritz value and about how far below an eigenvalue it lies.

    With the residual r of its Ritz vector that is at most ‖r‖, and at most ‖r‖² over the distance
    to the next eigenvalue, for which the next Ritz value stands.
    """
    count = len(diagonal)
    if count == 1:
        return diagonal[0], beside[0]
    values, vectors = scipy.linalg.eigh_tridiagonal(
        np.array(diagonal), np.array(beside[:-1]), select="i", select_range=(count - 2, count - 1)
    )
    residual = beside[-1] * abs(float(vectors[-1, 1]))
    gap = float(values[1] - values[0])
    return float(values[1]), min(residual, residual**2 / gap if gap > 0 else inf)


def _none_above(gram: Tensor, limit: float) -> bool:
    """Whether limit·I − A has a Cholesky factor: then no eigenvalue of A exceeds the limit.

    In floating point that is so up to about n² unit roundoffs, far less than `_PROVEN`.
    """
    shifted = gram.neg()
    shifted.diagonal().add_(limit)
    return not int(torch.linalg.cholesky_ex(shifted).info)
