"""Spectra on an accelerator, where Gram matrices are formed and their eigenvalues batched.

Everything is in float64, on every card. Consumer cards are slow at it, but single precision cannot
be bounded there: cuSOLVER finds the eigenvalues of a batch in float32 by Jacobi rotations, whose
rounding adds up over thousands of them (7e-5 of each eigenvalue at 256 rows, measured on an H200,
where the routines of LAPACK stay below 1e-5), and no bound on it is published.
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


def device_spectra(
    matrix: Tensor,
    ks: Sequence[int],
    groups: int = 1,
    *,
    device: torch.device,
) -> tuple[float, dict[int, Curve]]:
    """Return σ_1 of a folded layer and its curve for every k, computed on a device.

    The memory taken on the device is that of the weights and of a few of the largest Gram
    matrices.

    Args:
        matrix: (rows, c / groups, q) as `fold` gives it, the rows group by group, of any
            floating dtype and on any device.
        ks: numbers of slices in each group, each a divisor of c / groups; 1 among them.
        groups: the groups of the layer, a divisor of the rows.
        device: the device to compute on, which must have float64.

    Raises:
        torch.OutOfMemoryError: the device is too small.
        ValueError: 1 is not among the ks.
    """
    if 1 not in ks:
        raise ValueError("the norm needs the spectrum of one slice")
    slicing = replace(
        Slicing.of(matrix.detach().to(device), groups),
        exponent=even_exponent(matrix),
        portions=CARD,
    )
    values = {k: np.empty((groups * k, slicing.side(k))) for k in ks}
    for leader, others in families(slicing, ks):
        for batch in family_grams(slicing, leader, others):
            found = eigenvalues(batch.grams)
            values[batch.k][batch.first : batch.first + len(found)] = found
            del batch
    terms = slicing.matrix.shape[1] + slicing.matrix[0, 0].numel()
    norm = sqrt(max(float(values[1][:, 0].max()), 0.0)) * 2.0**slicing.exponent
    curves = {
        k: curve_of(squares.reshape(groups, k, -1), terms, slicing.exponent)
        for k, squares in values.items()
    }
    return norm, curves
