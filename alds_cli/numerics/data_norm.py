"""Pairs that are closest to a layer on the inputs that it gets, rather than in its weight.

Let C = E[x xᵀ] be the second moments of a layer's input patches x, or their covariance where a
constant can be added to the output. The error of a pair is then

    E‖(W − Ŵ) x‖² = tr((W − Ŵ) C (W − Ŵ)ᵀ).

Inputs of which only one is not zero at a time, as those of an embedding, have a diagonal C. It is
then passed as its diagonal, and slices have nothing to correct of each other.

**One slice.** With U_j the leading eigenvectors of W C Wᵀ, no matrix of rank j has a smaller error
than U_j U_jᵀ W: it is the truncated singular value decomposition of W C^½, times the inverse of
C^½ where there is one. No inverse is formed, so that a singular C needs no special treatment.

**Several slices.** Their outputs are added up, so that each can correct what the others leave.
Ŵ = [L_1 R_1 … L_k R_k] starts from the best approximation of every slice alone, in the norm of its
own block C_ii, with the least-squares solution for all L_i together. A sweep then solves for one
slice after the other in closed form with the others fixed, and again for all L_i. No sweep makes
the error larger.

Inputs often lie in a subspace, or nearly so, and of what is outside they say nothing: any weight
there has the same error. A share of `UNSEEN` of the mean moment is added to every direction, below
the rounding of float32, so that the approximation of the weight decides there. Where all inputs are
zero, it alone remains. What slices correct of each other is damped in directions with less than
`DAMPING` of the mean moment, where a sample of inputs would otherwise be fitted with large weights
that cancel out on the sample alone.

Sources: one slice: Zhang, Zou, He, Sun, TPAMI 2016, Sec. 3.1; Wang et al., ICLR 2025
(SVD-LLM), https://arxiv.org/abs/2403.07378; a slice with the others fixed: reduced-rank regression,
Izenman, Journal of Multivariate Analysis 5 (1975).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alds_cli.numerics.eigenvalues import eigenvalues
from alds_cli.numerics.fold import fold, pair_params, slicings
from alds_cli.numerics.grams import balance, in_units, leading_eigenpairs, unit_exponent
from alds_cli.numerics.spectra import (
    curve_of,
    empty_table,
    rounding_slack,
    with_scheme,
)
from alds_cli.records import OPERATOR, Curve, FloatArray, LayerSpec, LayerTable

UNSEEN = 1e-12
"""The share of the mean moment that directions without any input count as."""

SWEEPS = 3
"""How often all slices are solved for in turn; more gain little."""

DAMPING = 1e-4
"""The share of the mean moment below which a direction hardly corrects anything."""


class DataFactors(NamedTuple):
    """Left (g·k, f/g, j) and right (g·k, j, n/k), and the error that they have, relative to W.

    The error is the root of tr((W − Ŵ) C (W − Ŵ)ᵀ) / tr(W C Wᵀ), before rounding.
    """

    left: Tensor
    right: Tensor
    error: float


def seen_moments(moments: Tensor) -> Tensor:
    """Return moments (g, n, n) in units of their mean, where every direction counts a little.

    They are relative to the mean over the diagonals of all groups; where that is zero, the result
    is the unit matrix. Of diagonals (g, n), diagonals are returned.
    """
    diagonal = moments.ndim == 2
    mean = float((moments if diagonal else moments.diagonal(dim1=1, dim2=2)).mean())
    size = moments.shape[-1]
    unit = torch.ones(size).to(moments) if diagonal else torch.eye(size, dtype=moments.dtype)
    if not mean > 0:
        return unit.expand_as(moments).contiguous()
    return moments / mean + UNSEEN * unit


def data_table(spec: LayerSpec, weight: Tensor, moments: Tensor | None) -> LayerTable:
    """Return the error table of a layer in the norm of its inputs, for scheme 0.

    Args:
        spec: the layer.
        weight: (f, c/g, κ…).
        moments: (g, n, n) in float64, or their diagonals (g, n); None counts all directions alike.
    """
    shape, groups = spec.weight_shape, spec.groups
    table = empty_table(spec)
    if pair_params(shape, OPERATOR, 1, 1, groups) >= spec.weight_params:
        return with_scheme(table, OPERATOR, 0.0, {}, 0.0)
    matrix = fold(in_units(weight.cpu(), unit_exponent(weight)), OPERATOR)
    norm, curves = data_curves(matrix, moments, slicings(spec, OPERATOR), groups)
    slack = rounding_slack(spec, OPERATOR, curves[1])
    return with_scheme(table, OPERATOR, norm, curves, slack)


def data_curves(
    matrix: Tensor, moments: Tensor | None, ks: Iterable[int], groups: int = 1
) -> tuple[float, dict[int, Curve]]:
    """Return σ_1 of W C^½, and the curve of every number of slices in the norm of the inputs.

    Args:
        matrix: (f, c, q) as `fold.fold` gives it by scheme 0, the rows group by group, in units in
            which its squares are in range.
        moments: (g, n, n) with n = c·q, in float64, or their diagonals (g, n); None counts all
            directions alike.
        ks: numbers of slices, each a divisor of c; 1 must be among them.
        groups: g, the groups of the layer.
    """
    weight, inputs = _grouped(matrix, moments, groups)
    terms = weight.shape[1] + weight.shape[2]
    values = {k: _slice_energies(weight, inputs, k) for k in ks}
    curves = {k: curve_of(found, terms, 0) for k, found in values.items()}
    return sqrt(max(float(values[1].max()), 0.0)), curves


def data_factors(
    matrix: Tensor,
    moments: Tensor,
    k: int,
    j: int,
    dtype: torch.dtype = torch.float64,
    *,
    sweeps: int = SWEEPS,
) -> DataFactors:
    """Return the factors of k slices of rank j in each group that are closest on the inputs.

    They are deterministic on one BLAS thread, and balanced as in `grams.low_rank_factors`.

    Args:
        matrix: (f, c, q) as `fold.fold` gives it by scheme 0, the rows group by group.
        moments: (g, n, n) with n = c·q, in float64, or their diagonals (g, n).
        k: number of slices in a group, a divisor of c.
        j: rank, 1 ≤ j ≤ min(f / g, n / k).
        dtype: the type of the factors.
        sweeps: how often at most all slices are solved for in turn.
    """
    exponent = unit_exponent(matrix)
    groups = len(moments)
    weight = in_units(matrix, exponent).reshape(groups, len(matrix) // groups, -1).double()
    inputs = seen_moments(moments)
    halves = [_fitted(own, seen, k, j, sweeps) for own, seen in zip(weight, inputs, strict=True)]
    left, right = (torch.cat(half) for half in zip(*halves, strict=True))
    approximation = (left @ right).view(groups, k, weight.shape[1], -1)
    lost = weight - approximation.transpose(1, 2).flatten(2)
    error = sqrt(_energy(lost, inputs) / (_energy(weight, inputs) or 1.0))
    root = 2.0 ** (exponent // 2)
    return DataFactors((left * root).to(dtype), (right * root).to(dtype), error)


def _grouped(matrix: Tensor, moments: Tensor | None, groups: int) -> tuple[Tensor, Tensor | None]:
    """Return the weight (g, f/g, n) in float64, and the moments to measure its errors by."""
    weight = matrix.reshape(groups, len(matrix) // groups, -1).to(torch.float64)
    return weight, None if moments is None else seen_moments(moments)


def _times(weight: Tensor, inputs: Tensor) -> Tensor:
    """Return W C for C (…, n, n), or for its diagonal (…, n)."""
    diagonal = inputs.ndim < weight.ndim
    return weight * inputs.unsqueeze(-2) if diagonal else weight @ inputs


def _block(inputs: Tensor, part: slice) -> Tensor:
    """Return C_ii of C (n, n), or its diagonal of that of C."""
    return inputs[part] if inputs.ndim == 1 else inputs[part, part]


def _energy(weight: Tensor, inputs: Tensor) -> float:
    """Return tr(W C Wᵀ), summed over the groups."""
    return max(float((_times(weight, inputs) * weight).sum()), 0.0)


def _slice_energies(weight: Tensor, inputs: Tensor | None, k: int) -> FloatArray:
    """Return the squared singular values of W_i C_ii^½, largest first: (g, k, min(f/g, n/k))."""
    groups, rows, size = weight.shape
    width = size // k
    found = np.empty((groups, k, min(rows, width)))
    for group in range(groups):
        for index in range(k):
            part = slice(index * width, (index + 1) * width)
            own = weight[group, :, part]
            if rows > width:
                own = torch.linalg.qr(own, mode="r")[1]
            seen = own if inputs is None else _times(own, _block(inputs[group], part))
            gram = seen @ own.mT
            found[group, index] = eigenvalues((gram + gram.mT)[None] / 2)[0]
    return found


def _fitted(weight: Tensor, inputs: Tensor, k: int, j: int, sweeps: int) -> tuple[Tensor, Tensor]:
    """Return left (k, f, j) and right (k, j, n/k) of one group, for W (f, n) and C."""
    rows, size = weight.shape
    slices = weight.reshape(rows, k, size // k).transpose(0, 1)
    width = size // k
    blocks = [_block(inputs, slice(start, start + width)) for start in range(0, size, width)]
    pairs = [_closest(own, block, j) for own, block in zip(slices, blocks, strict=True)]
    left, right = (torch.stack(half) for half in zip(*pairs, strict=True))
    if k > 1 and inputs.ndim == 2:
        fit = _Fit(weight, inputs, left, right)
        fit.solve_left()
        fit.improve(sweeps)
        left, right = fit.left, fit.right
    return _balanced(left, right)


def _closest(weight: Tensor, inputs: Tensor, j: int) -> tuple[Tensor, Tensor]:
    """Return (f, j) with orthonormal columns and (j, n), the closest to W (f, n) for C (n, n)."""
    frame = None
    if weight.shape[0] > weight.shape[1]:
        frame, weight = torch.linalg.qr(weight)
    gram = _times(weight, inputs) @ weight.mT
    basis = leading_eigenpairs(((gram + gram.mT) / 2)[None], j)[1][0]
    return basis if frame is None else frame @ basis, basis.mT @ weight


def _balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Scale the columns of left (k, f, j) and the rows of right (k, j, n) to equal norms."""
    lengths = left.norm(dim=1, keepdim=True)
    unit = left / torch.where(lengths > 0, lengths, 1.0)
    right = right * lengths.mT
    scale = balance(right.square().sum(dim=-1), 1.0)
    return unit * scale, right / scale.mT


class _Fit:
    """The factors of slices whose outputs are added up, and W − Ŵ, as they get closer.

    Args:
        weight: W, (f, n).
        inputs: C, (n, n).
        left: (k, f, j).
        right: (k, j, n / k).
    """

    def __init__(self, weight: Tensor, inputs: Tensor, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right
        self._weight, self._inputs = weight, inputs
        self._width = right.shape[2]

    @property
    def rest(self) -> Tensor:
        """W − Ŵ, (f, n)."""
        return self._weight - (self.left @ self.right).transpose(0, 1).flatten(1)

    @property
    def error(self) -> float:
        """tr((W − Ŵ) C (W − Ŵ)ᵀ)."""
        return _energy(self.rest, self._inputs)

    def improve(self, sweeps: int) -> None:
        """Sweep over the slices as long as that makes the error smaller."""
        error = self.error
        for _ in range(sweeps):
            before = self.left, self.right
            self._sweep()
            self.solve_left()
            reached = self.error
            if not reached < error:
                self.left, self.right = before
                return
            error = reached

    def solve_left(self) -> None:
        """Solve for all left factors at once: L = W C Rᵀ (R C Rᵀ)⁻¹, with R block diagonal."""
        k, j, width = self.right.shape
        rows = len(self._weight)
        across = self.right @ self._inputs.view(k, width, -1)  # R C, (k, j, n)
        gram = torch.einsum("ijlv,lmv->ijlm", across.view(k, j, k, width), self.right)
        missing = (self.rest @ across.flatten(0, 1).mT).mT  # R C (W − Ŵ)ᵀ, (k·j, f)
        gram = gram.reshape(k * j, k * j)
        damping = DAMPING * float(gram.diagonal().mean())
        if damping > 0:
            step = damped_solve(gram, missing, damping)
            self.left = self.left + step.view(k, j, rows).mT

    def _sweep(self) -> None:
        """Solve for each slice in turn, with the others fixed."""
        self.left, self.right = self.left.clone(), self.right.clone()
        missing = self.rest @ self._inputs
        damping = DAMPING * float(self._inputs.diagonal().mean())
        for i, right in enumerate(self.right):
            part = slice(i * self._width, (i + 1) * self._width)
            own = self._inputs[part, part]
            held = self.left[i] @ right
            target = held + damped_solve(own, missing[:, part].mT, damping).mT
            self.left[i], self.right[i] = _closest(target, own, len(right))
            missing -= (self.left[i] @ self.right[i] - held) @ self._inputs[part]


def damped_solve(gram: Tensor, given: Tensor, damping: float) -> Tensor:
    """Solve (G + d·I) X = B for a positive semidefinite G (n, n), B (n, m) and a damping d > 0."""
    unit = torch.eye(len(gram), dtype=gram.dtype)
    solved: Tensor = torch.cholesky_solve(given, torch.linalg.cholesky(gram + damping * unit))
    return solved
