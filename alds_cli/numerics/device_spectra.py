"""Spectra on an accelerator, where Gram matrices are formed and their eigenvalues batched.

The Gram matrices are those of the CPU, and are formed in float64 on every card. Consumer cards are
slow at it, but this is the smaller part of the work, and the loss in float32 could not be told from
the weights. Eigenvalues are computed in float64 where the card is fast at it, else in float32 from
Gram matrices scaled to near 1; every curve is then raised by the most that this may have lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from alds_cli.numerics.eigenvalues import eigenvalues
from alds_cli.numerics.grams import even_exponent
from alds_cli.numerics.shared_grams import (
    CARD,
    Slicing,
    families,
    family_grams,
)
from alds_cli.numerics.spectra import curve_of
from alds_cli.records import Curve

_DATACENTRE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
"""Compute capabilities of the cards whose float64 runs at half the speed of their float32."""

_UNIT_ROUNDOFF_32 = 2.0**-24


def eigenvalue_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which a device computes eigenvalues best."""
    if device.type == "cpu":
        return torch.float64
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return torch.float64 if capability in _DATACENTRE else torch.float32


def device_spectra(
    matrix: Tensor,
    ks: Sequence[int],
    groups: int = 1,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> tuple[float, dict[int, Curve]]:
    """Return σ_1 of a folded layer and its curve for every k, computed on a device.

    The memory taken on the device is that of the weights and of a few of the largest Gram
    matrices.

    Args:
        matrix: (rows, c / groups, q) as `fold` gives it, the rows group by group, of any
            floating dtype and on any device.
        ks: numbers of slices in each group, each a divisor of c / groups; 1 among them.
        groups: the groups of the layer, a divisor of the rows.
        device: the device to compute on.
        dtype: float64 or float32, for the eigenvalue problems; None takes the device's best.

    Raises:
        torch.OutOfMemoryError: the device is too small.
        ValueError: 1 is not among the ks.
    """
    if 1 not in ks:
        raise ValueError("the norm needs the spectrum of one slice")
    dtype = eigenvalue_dtype(device) if dtype is None else dtype
    # Always scaled, so that squares are in the range of float32 as well.
    slicing = replace(
        Slicing.of(matrix.detach().to(device), groups),
        exponent=even_exponent(matrix),
        portions=CARD,
    )
    values = {k: np.empty((groups * k, slicing.side(k))) for k in ks}
    for leader, others in families(slicing, ks):
        for batch in family_grams(slicing, leader, others):
            found = eigenvalues(batch.grams.to(dtype))
            values[batch.k][batch.first : batch.first + len(found)] = found
            del batch
    terms = slicing.matrix.shape[1] + slicing.matrix[0, 0].numel()
    norm = sqrt(max(float(values[1][:, 0].max()), 0.0)) * 2.0**slicing.exponent
    curves = {
        k: curve_of(
            squares.reshape(groups, k, -1),
            terms,
            slicing.exponent,
            solving_share(squares.shape[1], dtype),
        )
        for k, squares in values.items()
    }
    return norm, curves


def solving_share(size: int, dtype: torch.dtype) -> float:
    """Return the share of ‖G‖₂ by which eigenvalues (n,) found in float32 may be off.

    There are two parts, by Weyl's inequality. Rounding the Gram matrix G to float32 changes each
    entry by at most a unit roundoff u of it, and ‖ |G| ‖₂ ≤ √n·‖G‖₂. The routine finds the exact
    eigenvalues of G + E with ‖E‖₂ ≤ p(n)·u·‖G‖₂ (LAPACK Users' Guide, 4.7); p(n) is a modest
    polynomial, in practice below √n, and 8·√n leaves room. The loss where entries of G fall below
    the range of float32 is far less than u.
    """
    if dtype == torch.float64:
        return 0.0
    return 9 * sqrt(size) * _UNIT_ROUNDOFF_32
