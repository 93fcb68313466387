"""Low-rank factors that preserve the outputs of a layer rather than its weight.

With U_j the leading eigenvectors of the covariance of a layer's responses y = W x + b, no affine
map of rank j of the responses is closer to them, on average over the images, than

    y ≈ U_j U_jᵀ (y − ȳ) + ȳ = U_j (U_jᵀ W) x + b + (I − U_j U_jᵀ)(ȳ − b).

The two factors are U_j and U_jᵀ W, balanced as in `factors`; the last term is a constant. Where
no constant can be added, the second moments E[(y − b)(y − b)ᵀ] replace the covariance:
y ≈ U_j U_jᵀ (y − b) + b is then the closest.

Source: Zhang, Zou, He, Sun, TPAMI 2016, Sec. 3.1, Eqs. 2 to 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alds_cli.numerics.eigenvalues import eigenvalues
from alds_cli.numerics.grams import balance, leading_eigenpairs
from alds_cli.records import FloatArray


def weight_frame(matrix: Tensor, groups: int) -> Tensor | None:
    """Return an orthonormal basis of the range of a weight: (g, f/g, n), n = c·q < f/g; or None.

    Responses vary within this range alone, so that n² numbers determine their covariance. None is
    returned where a group has no more outputs than inputs: there the range is the whole space.

    Args:
        matrix: (f, c, q), the weight as `fold.fold` gives it by scheme 0, group by group.
        groups: g, the groups of the layer.
    """
    weight = matrix.reshape(groups, len(matrix) // groups, -1)
    if weight.shape[1] <= weight.shape[2]:
        return None
    frame: Tensor = torch.linalg.qr(weight.to(torch.float64))[0]
    return frame


def response_spectrum(moments: Tensor) -> FloatArray:
    """Return the energy of each principal component, (n,), largest first, in float64.

    Args:
        moments: (g, n, n), the covariance of every group's responses. Groups have the same
            rank, so that components at the same position are added up over the groups.
    """
    energies: FloatArray = eigenvalues(moments).clip(min=0).sum(axis=0)
    return energies


def response_factors(
    matrix: Tensor,
    moments: Tensor,
    frame: Tensor | None,
    j: int,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return factors of the weight's projection on the j leading components of each group.

    They are deterministic on one BLAS thread; signs are fixed as in `factors`. Components without
    energy, as of channels that are always 0, come last and are arbitrary.

    Args:
        matrix: (f, c, q), the weight as `fold.fold` gives it by scheme 0, group by group.
        moments: (g, n, n) in float64, in the coordinates of the frame; not changed.
        frame: the result of `weight_frame`.
        j: rank, 1 ≤ j ≤ n.
        dtype: the type of the factors.

    Returns:
        left (g, f/g, j) and right (g, j, c·q), whose product approximates the weight, and the
        components (g, f/g, j) in float64, orthonormal.
    """
    _, basis = leading_eigenpairs(moments.clone(), j)
    if frame is not None:
        basis = frame @ basis
    weight = matrix.reshape(*basis.shape[:2], -1).to(torch.float64)
    right = basis.mT @ weight
    scale = balance(right.square().sum(dim=-1), 1.0)  # (g, 1, j)
    return (basis * scale).to(dtype), (right / scale.mT).to(dtype), basis


def constant_left(basis: Tensor, constant: Tensor) -> Tensor:
    """Return (I − U_j U_jᵀ) v for v (f,), the part outside the components (g, f/g, j)."""
    parted = constant.reshape(len(basis), -1, 1)
    return (parted - basis @ (basis.mT @ parted)).flatten()
