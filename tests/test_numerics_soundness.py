"""Tables bound the true error and `exact` is it, for thousands of weights of every kind.

`CASES` weights for each class of layers and kind of weight, 4,800 in all: each is folded by a
scheme, cut into k slices, and looked at for several ranks. The reference uses nothing of what it
tests: singular values and vectors of each slice by LAPACK in float64, the difference assembled
whole, its norm by another singular value decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import frexp, prod

import numpy as np
import pytest
import torch
from torch import Tensor

from alds_cli.numerics.eigenvalues import residual_norm
from alds_cli.numerics.fold import distinct_schemes, divisors, fold
from alds_cli.numerics.grams import low_rank_factors
from alds_cli.numerics.spectra import SpectraJob
from alds_cli.numerics.true_errors import error_interval, exact_errors
from alds_cli.records import Curve
from alds_cli.runtime.pool import run_jobs

CASES = 60

CLASSES = {
    "linear tall": ((33, 48), (2, 4, 6, 12), ()),
    "linear wide": ((3, 12), (24, 36, 48), ()),
    "linear square": ((12, 24), None, ()),
    "conv1d": ((1, 24), (1, 2, 4, 6, 12), (5,)),
    "conv2d": ((1, 24), (1, 2, 4, 6, 12), (3, 3)),
    "conv2d, flat kernel": ((1, 24), (2, 4, 6), (1, 3)),
    "conv3d": ((1, 12), (1, 2, 4, 6), (2, 1, 3)),
    "grouped": ((4, 24), (2, 4, 6), (3, 2)),
}
"""Least and most output channels, input channels (as many as outputs: None), the kernel."""

KINDS = (
    "gaussian",
    "low rank",
    "dead channels",
    "repeated",
    "identical slices",
    "one huge entry",
    "decaying",
    "nearly all zero",
    "float16",
    "bfloat16",
)


def weight_of(kind, shape, rng):
    """A weight of a kind, at a scale between 1e-20 and 1e20 that its type can hold."""
    weight = rng.standard_normal(shape)
    flat = weight.reshape(shape[0], -1)
    scale = 10.0 ** rng.integers(-20, 21)
    if kind == "low rank":
        rank = rng.integers(1, 4)
        left, right = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, *shape[1:]))
        weight = np.tensordot(left, right, 1)
    elif kind == "dead channels":
        weight[:, rng.random(shape[1]) < 0.5] = 0
        weight[rng.random(shape[0]) < 0.3] = 0
    elif kind == "repeated":
        u, _, vt = np.linalg.svd(flat, full_matrices=False)
        values = rng.choice([2.0, 1.0, 0.5], size=min(flat.shape))
        weight = (u * values @ vt).reshape(shape)
    elif kind == "identical slices":
        k = rng.choice([k for k in divisors(shape[1]) if k > 1 or shape[1] == 1])
        weight = np.concatenate([weight[:, : shape[1] // k]] * k, axis=1)
    elif kind == "one huge entry":
        weight[tuple(rng.integers(0, shape))] = 10.0 ** rng.integers(2, 6)
    elif kind == "decaying":
        decades = -rng.integers(1, 13)
        weight = weight * np.logspace(0, decades, shape[1]).reshape(-1, *[1] * len(shape[2:]))
    elif kind == "nearly all zero":
        weight[rng.random(shape) < 0.9] = 0
    elif kind == "float16":
        scale = 10.0 ** rng.integers(-5, 4)  # smaller ones are subnormal
        return torch.from_numpy(weight * scale).half()
    elif kind == "bfloat16":
        return torch.from_numpy(weight * scale).bfloat16()
    return torch.from_numpy(weight * scale).to(rng.choice([torch.float32, torch.float64]))


@dataclass
class Case:
    """One weight folded, cut and with some ranks; a group's slices side by side."""

    matrix: Tensor
    k: int
    groups: int
    ranks: list[int]

    @property
    def terms(self):
        return self.matrix.shape[0] // self.groups + prod(self.matrix.shape[1:])


def case_of(kind, shape, rng, groups=1):
    weight = weight_of(kind, shape, rng)
    matrix = fold(weight, int(rng.choice(distinct_schemes(shape[2:]))))
    k = int(rng.choice(divisors(shape[1])))
    full = min(matrix.shape[0] // groups, matrix[0].numel() // k)
    drawn = {0, 1, full - 1, full, *rng.integers(0, full + 1, 2).tolist()}
    return Case(matrix, k, groups, sorted(drawn))


def cases_of(family, kind):
    (least, most), channels, kernel = CLASSES[family]
    rng = np.random.default_rng([list(CLASSES).index(family), KINDS.index(kind)])
    for _ in range(CASES):
        rows = int(rng.integers(least, most + 1))
        columns = rows if channels is None else int(rng.choice(channels))
        groups = int(rng.choice(divisors(rows))) if family == "grouped" else 1
        yield case_of(kind, (rows, columns, *kernel), rng, groups)


@dataclass
class Reference:
    """True errors of a case's ranks, in units of 2**exponent; σ_1 of the worst group.

    Where singular values on both sides of a cut are equal, the best approximation is not
    unique, nor is then the error of several slices together: those ranks are not `unique`.
    """

    errors: np.ndarray
    unique: np.ndarray
    norm: float


def reference_of(case):
    low, high = torch.aminmax(case.matrix.double())
    exponent = frexp(max(-float(low), float(high)))[1]
    scaled = np.ldexp(case.matrix.double().numpy(), -exponent)  # exactly
    errors = np.zeros(len(case.ranks))
    unique = np.ones(len(case.ranks), dtype=bool)
    norm = 0.0
    for group in np.split(scaled, case.groups):
        whole = group.reshape(len(group), -1)
        norm = max(norm, float(np.linalg.norm(whole, 2)))
        slices = [part.reshape(len(part), -1) for part in np.split(group, case.k, axis=1)]
        triples = [np.linalg.svd(part, full_matrices=False) for part in slices]
        for index, j in enumerate(case.ranks):
            best = np.concatenate([(u[:, :j] * s[:j]) @ vt[:j] for u, s, vt in triples], axis=1)
            # The difference from what remains: not drowned by the rounding of what cancels.
            rest = np.concatenate([(u[:, j:] * s[j:]) @ vt[j:] for u, s, vt in triples], axis=1)
            assert np.linalg.norm(whole - best - rest) <= 1e-13 * norm
            errors[index] = max(errors[index], float(np.linalg.norm(rest, 2)))
            unique[index] &= case.k == 1 or all(_cut_is_clear(s, j) for _, s, _ in triples)
    return Reference(np.ldexp(errors, exponent), unique, float(np.ldexp(norm, exponent)))


def _cut_is_clear(sigma, j):
    if j in {0, len(sigma)} or sigma[j - 1] <= 1e-14 * sigma[0]:
        return True
    return sigma[j - 1] - sigma[j] > 1e-4 * sigma[0] or sigma[j] < 0.9 * sigma[j - 1]


def curves_of(cases):
    """Tables of all cases, computed on the pool as a profile does."""
    jobs = [SpectraJob(case.matrix, sorted({1, case.k}), case.groups) for case in cases]
    run_jobs(jobs)
    return [job.curves() for job in jobs]


def require_sound(case, curve, whole, reference):
    """The table is at least the true error, and `exact` is it; returns what was compared."""
    rounding = 3e-14 * reference.norm
    found = exact_errors(case.matrix, case.k, case.ranks, case.groups)
    assert np.isfinite(found).all()
    for j, exact, true, unique in zip(
        case.ranks, found, reference.errors, reference.unique, strict=True
    ):
        for bound in (np.sqrt(curve.sum_squares[j]), np.sqrt(case.k) * curve.largest[j]):
            assert bound >= true * (1 - 1e-12) - rounding
            assert bound >= exact * (1 - 1e-12) - rounding
        lower, upper = error_interval(curve, whole, case.k, j, case.terms)
        assert lower * (1 - 1e-9) - rounding <= exact <= upper * (1 + 1e-9) + rounding
        assert lower * (1 - 1e-12) - rounding <= true
        if unique:
            assert abs(exact - true) <= 1e-9 * true + 1e-14 * reference.norm
    assert (np.diff(found) <= 1e-9 * found[:-1] + 1e-14 * reference.norm).all()
    return int(reference.unique.sum())


@pytest.mark.mostly_slow(7)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CLASSES)
def test_tables_bound_the_true_error_and_exact_is_it(family, kind):
    cases = list(cases_of(family, kind))
    compared = 0
    for case, curves in zip(cases, curves_of(cases), strict=True):
        compared += require_sound(case, curves[case.k], curves[1], reference_of(case))
    assert len(cases) == CASES
    assert compared > CASES  # several ranks of most are unique


def test_there_are_thousands():
    assert CASES * len(CLASSES) * len(KINDS) >= 3_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 16, 3, 3), (128, 96), (72, 128), (96, 16, 1, 1)])
def test_weights_of_more_usual_size(shape, kind):
    rng = np.random.default_rng([*shape, KINDS.index(kind)])
    cases = [case_of(kind, shape, rng, groups) for groups in (1, 4)]
    for case, curves in zip(cases, curves_of(cases), strict=True):
        assert require_sound(case, curves[case.k], curves[1], reference_of(case))


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("kind", KINDS)
def test_factors_that_are_written_stay_within_their_bound(kind):
    """In float64; at lower precision their own rounding comes on top."""
    rng = np.random.default_rng(KINDS.index(kind))
    cases = [
        case_of(kind, shape, rng, groups)
        for shape in ((16, 12, 3, 3), (24, 24), (12, 6, 2), (8, 4, 2, 1, 2))
        for groups in (1, 2, 4)
        for _ in range(4)
    ]
    for case, curves in zip(cases, curves_of(cases), strict=True):
        curve = curves[case.k]
        norm = float(np.sqrt(curves[1].sum_squares[0]))
        for j in [rank for rank in case.ranks if rank]:
            left, right = low_rank_factors(case.matrix, case.k, j, groups=case.groups)
            error = residual_norm(case.matrix, left, right, case.groups)
            assert error <= np.sqrt(curve.sum_squares[j]) * (1 + 1e-12) + 1e-7 * norm
            exact = exact_errors(case.matrix, case.k, [j], case.groups)[0]
            if exact > 1e-2 * norm:
                assert error == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
@pytest.mark.parametrize("family", CLASSES)
def test_float64_at_the_ends_of_its_range(family, scale):
    """Beyond what squares can be told of, so that a table may not exist there."""
    for case in list(cases_of(family, "gaussian"))[:12]:
        largest = float(case.matrix.abs().max())
        exponent = frexp(scale / largest)[1]
        matrix = torch.from_numpy(np.ldexp(case.matrix.double().numpy(), exponent))
        scaled = Case(matrix, case.k, case.groups, case.ranks)
        reference = reference_of(scaled)
        found = exact_errors(matrix, case.k, case.ranks, case.groups)
        for j, exact, true in zip(case.ranks, found, reference.errors, strict=True):
            assert abs(exact - true) <= 1e-9 * true + 1e-14 * reference.norm
            if j:
                left, right = low_rank_factors(matrix, case.k, j, groups=case.groups)
                error = residual_norm(matrix, left, right, case.groups)
                assert abs(error - true) <= 1e-9 * true + 1e-13 * reference.norm


def test_what_the_paper_published_is_no_bound():
    """The same comparison finds the maximum over the slices wanting, so that it can find."""
    cases = [case for family in CLASSES for case in cases_of(family, "gaussian") if case.k > 1]
    below = 0
    for case, curves in zip(cases, curves_of(cases), strict=True):
        true = reference_of(case).errors
        below += any(
            curves[case.k].largest[j] < 0.99 * error
            for j, error in zip(case.ranks, true, strict=True)
        )
    assert below > len(cases) / 2


def test_a_table_that_forgot_a_slice_is_noticed():
    """The same for the sum of squares with one slice left out."""
    (case,) = [next(c for c in cases_of("conv2d", "gaussian") if c.k == 2 and c.ranks[-1] > 2)]
    (curves,) = curves_of([case])
    curve = curves[2]
    half = Curve(curve.sum_squares - curve.largest**2, *[curve.largest] * 3)
    with pytest.raises(AssertionError):
        require_sound(case, half, curves[1], reference_of(case))
