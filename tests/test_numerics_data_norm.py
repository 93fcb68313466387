"""Factors and tables in the norm of the inputs, against NumPy in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.numerics.data_norm import (
    UNSEEN,
    data_curves,
    data_factors,
    data_table,
    seen_moments,
)
from alds_cli.numerics.fold import divisors
from alds_cli.records import LayerSpec

DOUBLE = torch.float64


def root_of(moments):
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(moments)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def random_case(seed, rows=6, channels=4, width=3, groups=1, rank=None):
    """A weight (f, c, q) and moments (g, n, n), of a given rank, of directions of unlike size."""
    generator = torch.Generator().manual_seed(seed)
    size = channels * width
    matrix = torch.randn(groups * rows, channels, width, generator=generator, dtype=DOUBLE)
    spread = torch.logspace(0, -2, rank or size, dtype=DOUBLE)
    mix = torch.randn(groups, size, rank or size, generator=generator, dtype=DOUBLE) * spread
    return matrix, mix @ mix.mT


def product_of(left, right):
    """Ŵ (f, n) of a pair without groups."""
    return (left @ right).transpose(0, 1).reshape(left.shape[1], -1).numpy()


def error_of(matrix, moments, approximation):
    """The root of E‖(W − Ŵ)x‖² / E‖Wx‖²."""
    weight, root = matrix.flatten(1).numpy(), root_of(moments[0].numpy())
    return np.linalg.norm((weight - approximation) @ root) / np.linalg.norm(weight @ root)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), st.data())
def test_one_slice_is_the_truncated_svd_on_the_inputs(seed, rows, channels, width, data):
    size = channels * width
    rank = data.draw(st.integers(1, size))
    j = data.draw(st.integers(1, min(rows, size)))
    matrix, moments = random_case(seed, rows, channels, width, rank=rank)
    left, right, error = data_factors(matrix, moments, 1, j)
    assert left.shape == (1, rows, j)
    assert right.shape == (1, j, size)
    weight, root = matrix.flatten(1).numpy(), root_of(moments[0].numpy())
    sigma = np.linalg.svd(weight @ root, compute_uv=False)
    least = np.sqrt((sigma[j:] ** 2).sum() / (sigma**2).sum())
    reached = error_of(matrix, moments, product_of(left, right))
    # What is lost in directions that no input has counts a little.
    unseen = UNSEEN * moments.diagonal(dim1=1, dim2=2).mean() * matrix.square().sum()
    near = 1e-6 + 2 * float(unseen.sqrt()) / np.linalg.norm(weight @ root)
    assert reached == pytest.approx(least, rel=1e-6, abs=near)
    assert error == pytest.approx(reached, rel=1e-6, abs=near)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(1e-3, 2))
def test_no_other_pair_of_that_rank_comes_closer(seed, j, size):
    matrix, moments = random_case(seed)
    left, right, error = data_factors(matrix, moments, 1, j)
    generator = torch.Generator().manual_seed(seed + 1)
    other_left = left + size * torch.randn(left.shape, generator=generator, dtype=DOUBLE)
    other_right = right + size * torch.randn(right.shape, generator=generator, dtype=DOUBLE)
    for pair in ((other_left, right), (left, other_right), (other_left, other_right)):
        assert error_of(matrix, moments, product_of(*pair)) >= error - 1e-9


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_inputs_in_a_subspace_lose_nothing(k, seed):
    """Inputs of rank 2 in each slice need no more than rank 2 there."""
    matrix, _ = random_case(seed, rows=9, channels=4, width=3)
    generator = torch.Generator().manual_seed(seed)
    mix = torch.block_diag(
        *(torch.randn(12 // k, 2, generator=generator, dtype=DOUBLE) for _ in range(k))
    )
    spread = torch.randn(2 * k, 2 * k, generator=generator, dtype=DOUBLE)
    moments = (mix @ (spread @ spread.T) @ mix.T)[None]
    left, right, error = data_factors(matrix, moments, k, 2)
    assert error < 1e-5
    assert error_of(matrix, moments, product_of(left, right)) < 1e-5
    if k == 1:
        assert error > error_of(matrix, moments, matrix.flatten(1).numpy()) - 1e-6


def test_exactness_is_that_of_rounding():
    matrix, moments = random_case(0, rows=8, channels=4, width=4, rank=3)
    _, _, error = data_factors(matrix, moments, 1, 3)
    assert error < 3e-6  # the root of UNSEEN is 1e-6
    assert data_factors(matrix, moments, 1, 2).error > 1e-3


def started(matrix, moments, k, j):
    """The best approximation of every slice alone, in the norm of its own block."""
    rows, size = len(matrix), moments.shape[-1]
    width = size // k
    weight = matrix.flatten(1).numpy()
    found = np.empty_like(weight)
    for i in range(k):
        part = slice(i * width, (i + 1) * width)
        own = weight[:, part]
        u, _, _ = np.linalg.svd(own @ root_of(moments[0].numpy()[part, part]))
        found[:, part] = u[:, :j] @ (u[:, :j].T @ own)
    assert found.shape == (rows, size)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 6]), st.integers(1, 12), st.data())
def test_more_sweeps_never_lose_more(seed, k, rows, data):
    rank = data.draw(st.integers(1, 12))
    j = data.draw(st.integers(1, min(rows, 12 // k)))
    matrix, moments = random_case(seed, rows, channels=6, width=2, rank=rank)
    inputs = seen_moments(moments)
    start = error_of(matrix, inputs, started(matrix, inputs, k, j))
    errors = [data_factors(matrix, moments, k, j, sweeps=sweeps).error for sweeps in range(6)]
    assert errors[0] ** 2 <= start**2 + 1e-14
    assert all(after**2 <= before**2 + 1e-14 for before, after in pairwise(errors))


def test_sweeps_gain_something():
    gains = []
    for seed in range(5):
        matrix, moments = random_case(seed, rows=12, channels=6, width=2)
        none, three = (data_factors(matrix, moments, 3, 2, sweeps=n).error for n in (0, 3))
        gains.append(three / none)
    assert np.mean(gains) < 0.97


def test_slices_that_do_not_correlate_are_fitted_alone():
    matrix, moments = random_case(3, rows=7, channels=4, width=3)
    apart = torch.block_diag(moments[0, :6, :6], moments[0, 6:, 6:])[None]
    left, right, _ = data_factors(matrix, apart, 2, 2)
    expected = started(matrix, apart, 2, 2)
    np.testing.assert_allclose(product_of(left, right), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("k", "j"), [(1, 1), (1, 5), (2, 3), (4, 2)])
def test_both_factors_carry_the_same(k, j):
    matrix, moments = random_case(5)
    left, right, _ = data_factors(matrix, moments, k, j)
    torch.testing.assert_close(left.norm(dim=1), right.norm(dim=2))


def test_groups_are_layers_of_their_own():
    matrix, moments = random_case(2, rows=5, channels=4, width=2, groups=3)
    moments = moments * torch.tensor([1.0, 10, 0.1], dtype=DOUBLE).view(3, 1, 1)
    left, right, _ = data_factors(matrix, moments, 2, 2)
    assert left.shape == (6, 5, 2)
    for group in range(3):
        own = matrix[5 * group : 5 * group + 5]
        alone = data_factors(own, moments[group : group + 1], 2, 2)
        part = slice(2 * group, 2 * group + 2)
        np.testing.assert_allclose(
            product_of(left[part], right[part]),
            product_of(alone.left, alone.right),
            rtol=0,
            atol=1e-5,
        )


@pytest.mark.parametrize("exponent", [-300, -80, 80, 300])
def test_weights_and_inputs_of_any_magnitude(exponent):
    matrix, moments = random_case(4)
    usual = data_factors(matrix, moments, 2, 2)
    found = data_factors(matrix * 2.0**exponent, moments * 2.0 ** (exponent // 2), 2, 2)
    assert found.error == pytest.approx(usual.error, rel=1e-9)
    product = product_of(found.left * 2.0 ** -(exponent // 2), found.right)
    np.testing.assert_allclose(
        product * 2.0 ** -(exponent - exponent // 2),
        product_of(usual.left, usual.right),
        rtol=1e-6,
        atol=1e-9,
    )


def dead(seed):
    """Moments of inputs with channels that are always zero, for one slice all of them."""
    matrix, moments = random_case(seed, rows=6, channels=4, width=3)
    moments[:, 3:6] = moments[:, :, 3:6] = 0
    return matrix, moments


CASES = {
    "no inputs": lambda: (random_case(0)[0], torch.zeros(1, 12, 12, dtype=DOUBLE)),
    "dead channel": lambda: dead(1),
    "no weight": lambda: (torch.zeros(6, 4, 3, dtype=DOUBLE), random_case(0)[1]),
    "dead filter": lambda: (
        random_case(0)[0] * torch.eye(6, 1, dtype=DOUBLE)[:, :, None],
        random_case(0)[1],
    ),
    "one image": lambda: random_case(0, rank=1),
}


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_ever_undefined(case, k):
    matrix, moments = CASES[case]()
    for j in (1, 12 // k if k > 2 else 6):
        left, right, error = data_factors(matrix, moments, k, min(j, 12 // k), torch.float32)
        assert left.isfinite().all()
        assert right.isfinite().all()
        assert 0 <= error < 1 + 1e-9
    norm, curves = data_curves(matrix, moments, [1, 2, 4])
    assert np.isfinite(norm)
    assert all(np.isfinite(curve.tail_energy).all() for curve in curves.values())


def test_without_inputs_the_weight_decides():
    matrix, _ = random_case(6)
    left, right, _ = data_factors(matrix, torch.zeros(1, 12, 12, dtype=DOUBLE), 1, 2)
    u, sigma, v = np.linalg.svd(matrix.flatten(1).numpy(), full_matrices=False)
    np.testing.assert_allclose(product_of(left, right), (u[:, :2] * sigma[:2]) @ v[:2], atol=1e-9)


def test_of_a_dead_channel_the_weight_decides():
    """At a rank beyond that of the inputs, what no input reaches is approximated as well."""
    matrix, moments = dead(2)
    left, right, _ = data_factors(matrix, moments, 4, 3)
    np.testing.assert_allclose(
        product_of(left, right), matrix.flatten(1).numpy(), rtol=0, atol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([1, 2]), st.data())
def test_tables_hold_the_spectra_on_the_inputs(seed, rows, groups, data):
    rank = data.draw(st.integers(1, 12))
    matrix, moments = random_case(seed, rows, 4, 3, groups, rank)
    inputs = seen_moments(moments).numpy()
    shape = (groups * rows, 4, 3)
    spec = LayerSpec("layer", "conv1d", groups * rows, 4 * groups, (3,), groups=groups)
    assert spec.weight_shape == shape
    table = data_table(spec, matrix, moments)
    weights = matrix.reshape(groups, rows, 12).numpy()
    whole = sum(np.linalg.norm(w @ root_of(c)) ** 2 for w, c in zip(weights, inputs, strict=True))
    for scheme, k, j in table.choices:
        assert scheme == 0
        width, lost, largest = 12 // k, 0.0, 0.0
        for w, c in zip(weights, inputs, strict=True):
            for i in range(k):
                part = slice(i * width, (i + 1) * width)
                sigma = np.linalg.svd(w[:, part] @ root_of(c[part, part]), compute_uv=False)
                lost += float((sigma[j:] ** 2).sum())
                largest = max(largest, float(sigma[j]) if j < len(sigma) else 0.0)
        row = int(np.flatnonzero((table.choices == (0, k, j)).all(axis=1))[0])
        assert table.tail_energy[row] == pytest.approx(lost, rel=1e-9, abs=1e-11 * whole)
        assert table.largest[row] ** 2 == pytest.approx(largest**2, rel=1e-9, abs=1e-12 * whole)
    if len(table.choices):
        assert table.energies[0] == pytest.approx(whole, rel=1e-9)
    assert divisors(4)
