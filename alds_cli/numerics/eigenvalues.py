"""All eigenvalues of symmetric matrices of which only the lower triangle counts."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
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
