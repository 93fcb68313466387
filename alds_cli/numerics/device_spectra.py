"""Spectra on an accelerator: Gram matrices there, their eigenvalues batched there.

The same Gram matrices as on the CPU, formed in float64 everywhere: consumer cards have little
of it, but this is the smaller part of the work, and what it would lose in float32 could not be
told from the weights. Eigenvalues are found in float64 where the card is good at it, else in
float32 of Gram matrices near 1, and then every curve is raised by what that may have cost.
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
from alds_cli.numerics.option_tables import curve_of
from alds_cli.numerics.shared_grams import (
    CARD,
    Slicing,
    families,
    family_grams,
)
from alds_cli.records import Curve

_DATACENTRE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
"""Compute capabilities of the cards whose float64 is half as fast as their float32."""

_UNIT_ROUNDOFF_32 = 2.0**-24


def eigenvalue_dtype(device: torch.device) -> torch.dtype:
    """In what eigenvalues are best found on a device."""
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
    """σ_1 of a folded layer and its curve for every k, computed on a device.

    Memory on the device: the weights, and a few of the largest Gram matrices.

    Args:
        matrix: (rows, c / groups, q) as `fold` gives it, the rows group by group, of any
            floating dtype and wherever it lies.
        ks: numbers of slices in each group, each a divisor of c / groups; 1 among them.
        groups: of the layer, a divisor of the rows.
        device: where to work.
        dtype: of the eigenvalue problems, float64 or float32; what suits the device if None.

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
            own.reshape(groups, k, -1), terms, slicing.exponent, solving_share(own.shape[1], dtype)
        )
        for k, own in values.items()
    }
    return norm, curves


def solving_share(size: int, dtype: torch.dtype) -> float:
    """By what share of ‖G‖₂ eigenvalues of (n, n) may be off that were found in float32.

    Two parts, by Weyl's inequality. Rounding the Gram matrix G to float32 changes each entry
    by at most a unit roundoff u of it, and ‖ |G| ‖₂ ≤ √n·‖G‖₂. The routine finds the exact
    eigenvalues of G + E with ‖E‖₂ ≤ p(n)·u·‖G‖₂ (LAPACK Users' Guide, 4.7); p(n) is a modest
    polynomial, in practice below √n, and 8·√n leaves room. What rounding G below the range of
    float32 may lose is far less than u.
    """
    if dtype == torch.float64:
        return 0.0
    return 9 * sqrt(size) * _UNIT_ROUNDOFF_32
