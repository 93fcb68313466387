"""Low-rank factors and residual norms against dense singular value decompositions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.numerics import eigenvalues, grams
from alds_cli.numerics.eigenvalues import residual_norm
from alds_cli.numerics.fold import divisors
from alds_cli.numerics.grams import low_rank_factors
from alds_cli.runtime.pool import single_threaded_blas


def matrix_of(rows, channels, width, seed=0, rank=None):
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(rows, channels, width, generator=generator, dtype=torch.float64)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, channels * width, generator=generator, dtype=torch.float64)
    return (left @ right).view(rows, channels, width)


def product(left, right):
    """[L_1 R_1 … L_k R_k] as (rows, columns)."""
    return (left.double() @ right.double()).permute(1, 0, 2).flatten(1)


def truncated(matrix, k, j):
    """The best rank-j approximation of each slice, by a dense SVD."""
    step = matrix.shape[1] // k
    parts = []
    for index in range(k):
        u, s, vt = torch.linalg.svd(
            matrix[:, index * step : (index + 1) * step].double().flatten(1), full_matrices=False
        )
        parts.append(u[:, :j] * s[:j] @ vt[:j])
    return torch.cat(parts, 1)


@st.composite
def cases(draw):
    rows = draw(st.integers(1, 20))
    channels = draw(st.sampled_from([1, 2, 4, 6, 12]))
    width = draw(st.integers(1, 9))
    k = draw(st.sampled_from(divisors(channels)))
    j = draw(st.integers(1, min(rows, channels * width // k)))
    return matrix_of(rows, channels, width, draw(st.integers(0, 1000))), k, j


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(-20, 20))
def test_factors_are_the_best_approximation(case, exponent):
    matrix, k, j = case
    matrix = matrix * 10.0**exponent
    left, right = low_rank_factors(matrix, k, j)
    best = truncated(matrix, k, j)
    # Close singular values make the vectors, not the error, sensitive.
    lost = torch.linalg.vector_norm(matrix.flatten(1) - product(left, right))
    least = torch.linalg.vector_norm(matrix.flatten(1) - best)
    whole = torch.linalg.vector_norm(matrix)
    assert lost <= least * (1 + 1e-9) + 1e-13 * whole
    assert left.shape == (k, matrix.shape[0], j)
    assert right.shape == (k, j, matrix.shape[1] * matrix.shape[2] // k)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_full_rank_reproduces_the_matrix(case):
    matrix, k, _ = case
    full = min(matrix.shape[0], matrix.shape[1] * matrix.shape[2] // k)
    left, right = low_rank_factors(matrix, k, full)
    torch.testing.assert_close(product(left, right), matrix.flatten(1), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_halves_share_the_singular_values(case):
    matrix, k, j = case
    left, right = low_rank_factors(matrix, k, j)
    step = matrix.shape[1] // k
    for index in range(k):
        part = matrix[:, index * step : (index + 1) * step].flatten(1)
        sigma = torch.linalg.svdvals(part)[:j]
        strong = sigma > 1e-5 * sigma[0]
        roots = sigma.sqrt()[strong]
        torch.testing.assert_close(left[index].norm(dim=0)[strong], roots, rtol=1e-5, atol=0)
        torch.testing.assert_close(right[index].norm(dim=1)[strong], roots, rtol=1e-5, atol=0)


def peaks(left, right):
    """The entries of largest magnitude on the side the eigenvectors come from."""
    side = left.mT if left.shape[1] <= right.shape[2] else right
    return side.gather(-1, side.abs().argmax(-1, keepdim=True))


@pytest.mark.parametrize("shape", [(6, 8, 3), (40, 8, 1), (5, 12, 9)])
@pytest.mark.parametrize("limit", [1024, 2])
def test_signs_and_bits_are_repeatable(shape, limit, monkeypatch, threads):
    monkeypatch.setattr(grams, "_ALL_VECTORS", limit)
    matrix = matrix_of(*shape)
    found = []
    for count in (1, 4, 1):
        threads(count)
        with single_threaded_blas():
            found.append(low_rank_factors(matrix, 2, 2))
    for left, right in found[1:]:
        assert torch.equal(left, found[0][0])
        assert torch.equal(right, found[0][1])
    assert (peaks(*found[0]) > 0).all()
    # a sign in the data is not a matter of convention, one of a singular pair is
    opposite = low_rank_factors(-matrix, 2, 2)
    torch.testing.assert_close(product(*opposite), -product(*found[0]), rtol=1e-10, atol=1e-10)
    assert (peaks(*opposite) > 0).all()


@pytest.mark.parametrize("shape", [(12, 20, 3), (70, 20, 1), (30, 4, 9)])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("rank", [None, 3, 0])
def test_leading_eigenvectors_alone_give_the_same(shape, k, rank, monkeypatch):
    matrix = matrix_of(*shape, rank=rank)
    full = min(shape[0], shape[1] * shape[2] // k)
    for j in sorted({1, 2, full // 2, full}):
        monkeypatch.setattr(grams, "_ALL_VECTORS", 1024)
        batched = product(*low_rank_factors(matrix, k, j))
        monkeypatch.setattr(grams, "_ALL_VECTORS", 0)
        alone = product(*low_rank_factors(matrix, k, j))
        torch.testing.assert_close(alone, batched, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [4, 40])
def test_type_of_the_result(dtype, rows):
    matrix = matrix_of(rows, 6, 2).to(dtype)
    left, right = low_rank_factors(matrix, 2, 4, dtype)
    assert left.dtype == right.dtype == dtype
    best = low_rank_factors(matrix, 2, 4)
    assert best[0].dtype == torch.float64
    assert torch.equal(left, best[0].to(dtype))
    assert torch.equal(right, best[1].to(dtype))


@pytest.mark.parametrize("shape", [(6, 8, 3), (40, 8, 1), (1, 4, 1), (8, 1, 1)])
@pytest.mark.parametrize("kind", ["zero", "one-slice", "dead", "rank-one", "tiny", "identity"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_degenerate_matrices_have_finite_factors(shape, kind, dtype):
    matrix = matrix_of(*shape, rank=1 if kind == "rank-one" else None)
    if kind == "zero":
        matrix.zero_()
    elif kind == "one-slice":
        matrix[:, : (shape[1] + 1) // 2] = 0
    elif kind == "dead":
        matrix[::2] = 0
    elif kind == "tiny":
        matrix *= 1e-7 if dtype == torch.float16 else 1e-38
    elif kind == "identity":
        matrix = torch.eye(shape[0], shape[1] * shape[2]).double().reshape(shape)
    matrix = matrix.to(dtype)
    for k in divisors(shape[1]):
        full = min(shape[0], shape[1] * shape[2] // k)
        for j in (1, full):
            left, right = low_rank_factors(matrix, k, j, dtype)
            assert left.isfinite().all()
            assert right.isfinite().all()
        scale = max(1e-30, float(matrix.abs().max()))
        tolerance = 20 * torch.finfo(dtype).eps * scale
        if kind == "tiny":
            tolerance = max(tolerance, 8 * torch.finfo(dtype).smallest_normal)
        torch.testing.assert_close(
            product(left, right), matrix.double().flatten(1), rtol=0, atol=tolerance
        )


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([eigenvalues._DENSE_EIGENVALUES, 1]), st.integers(-20, 20))
def test_residual_norm_is_the_spectral_norm(case, limit, exponent):
    matrix, k, j = case
    matrix = matrix * 10.0**exponent
    left, right = low_rank_factors(matrix, k, j)
    rest = matrix.flatten(1) - product(left, right)
    exact = float(torch.linalg.matrix_norm(rest, 2))
    whole = float(torch.linalg.matrix_norm(matrix.flatten(1), 2))
    with pytest.MonkeyPatch.context() as patch:
        # ARPACK wants fewer eigenvalues than there are
        patch.setattr(eigenvalues, "_DENSE_EIGENVALUES", limit)
        found = residual_norm(matrix, left, right)
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-14 * whole)


@pytest.mark.parametrize("groups", [1, 2, 3, 12])
@pytest.mark.parametrize("shape", [(12, 6, 3), (48, 6, 1), (12, 4, 9)])
@pytest.mark.parametrize("k", [1, 2])
def test_groups_are_factored_each_by_itself(groups, shape, k):
    matrix = matrix_of(*shape)
    own_rows = shape[0] // groups
    for j in {1, min(own_rows, shape[1] // k * shape[2])}:
        left, right = low_rank_factors(matrix, k, j, torch.float32, groups)
        assert left.shape == (groups * k, own_rows, j)
        assert right.shape == (groups * k, j, shape[1] // k * shape[2])
        norms_of_groups = []
        for index, part in enumerate(matrix.split(own_rows)):
            own_left, own_right = low_rank_factors(part, k, j, torch.float32)
            assert torch.equal(left[index * k : (index + 1) * k], own_left)
            assert torch.equal(right[index * k : (index + 1) * k], own_right)
            norms_of_groups.append(residual_norm(part, own_left, own_right))
        whole = residual_norm(matrix, left, right, groups)
        assert whole == max(norms_of_groups)
        # the norm of the block diagonal matrix that the layer multiplies by
        rest = torch.block_diag(
            *(
                part.flatten(1) - product(left[index * k : (index + 1) * k], own)
                for index, (part, own) in enumerate(
                    zip(matrix.split(own_rows), right.split(k), strict=True)
                )
            )
        )
        assert whole == pytest.approx(float(torch.linalg.matrix_norm(rest, 2)), rel=1e-12)


POWERS = [-990, -700, -499, -67, 0, 66, 499, 700, 990]


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("shape", [(12, 20, 3), (70, 20, 1)])
@pytest.mark.parametrize("limit", [1024, 2])
def test_scales_of_float64_change_no_bit(power, shape, limit, monkeypatch):
    """Up to their own squares, which leave the range."""
    monkeypatch.setattr(grams, "_ALL_VECTORS", limit)
    matrix = matrix_of(*shape)
    power -= power % 2  # each half takes the root of it
    usual = low_rank_factors(matrix, 2, 3)
    scaled = matrix * 2.0**power
    found = low_rank_factors(scaled, 2, 3)
    for half, own in zip(usual, found, strict=True):
        assert torch.equal(own, half * 2.0 ** (power // 2))
    assert residual_norm(scaled, *found) == residual_norm(matrix, *usual) * 2.0**power


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("shape", [(12, 20, 3), (70, 20, 1)])
def test_scales_of_float32(scale, shape):
    """Whose halves must stay in the range of their type, too."""
    matrix = (matrix_of(*shape) * scale).float()
    left, right = low_rank_factors(matrix, 2, 5, torch.float32)
    assert float(left.abs().max()) < 1e3 * scale**0.5
    best = float(torch.linalg.matrix_norm(matrix.double().flatten(1) - truncated(matrix, 2, 5), 2))
    assert residual_norm(matrix, left, right) == pytest.approx(best, rel=1e-5)


def test_the_norm_of_a_pair_that_has_little_to_do_with_the_weight():
    """A trained pair may be far larger than what it came from, or the weight be zero."""
    left, right = matrix_of(1, 8, 3, 1), matrix_of(1, 3, 10, 2)
    pair = float(torch.linalg.matrix_norm((left @ right)[0], 2))
    for matrix in (torch.zeros(8, 10, 1), matrix_of(8, 10, 1) * 1e-250):
        for scale in (1e-90, 1.0, 1e90):
            found = residual_norm(matrix.double(), left * scale, right * scale)
            assert found == pytest.approx(pair * scale * scale, rel=1e-12)


@pytest.mark.parametrize("limit", [512, 1])
@pytest.mark.parametrize("shape", [(6, 8, 3), (40, 8, 1)])
def test_nothing_left_is_zero(limit, shape, monkeypatch):
    monkeypatch.setattr(eigenvalues, "_DENSE_EIGENVALUES", limit)
    matrix = torch.zeros(shape)
    matrix[0, 0, 0] = 2.0
    left, right = low_rank_factors(matrix, 1, 1)
    assert residual_norm(matrix, left, right) == 0
    assert residual_norm(torch.zeros(shape), left * 0, right * 0) == 0


@pytest.mark.parametrize("shape", [(40, 60, 1), (60, 40, 1)])
@pytest.mark.parametrize("kind", ["orthogonal", "two values", "last only"])
def test_lanczos_with_repeated_or_hidden_values(shape, kind, monkeypatch):
    """All eigenvalues equal, or the leading vector far from the start vector."""
    monkeypatch.setattr(eigenvalues, "_DENSE_EIGENVALUES", 1)
    matrix = torch.zeros(shape[0], shape[1], dtype=torch.float64)
    count = min(shape[:2])
    diagonal = torch.ones(count, dtype=torch.float64)
    if kind == "two values":
        diagonal[count // 2 :] = 0.5
    elif kind == "last only":
        diagonal[:-1] = 1e-3
    matrix[range(count), range(count)] = diagonal
    empty = torch.zeros(1, shape[0], 1), torch.zeros(1, 1, shape[1])
    found = residual_norm(matrix[:, :, None], *empty)
    assert found == pytest.approx(1.0, rel=1e-12)
    assert found == residual_norm(matrix[:, :, None], *empty)


@pytest.mark.slow
@pytest.mark.parametrize("orthogonal", [True, False])
def test_large_layers_by_lanczos(orthogonal):
    """Wide enough for Lanczos at its real limit."""
    weight = torch.empty(620, 560)
    generator = torch.Generator().manual_seed(0)
    fill = torch.nn.init.orthogonal_ if orthogonal else torch.nn.init.normal_
    fill(weight, generator=generator)
    matrix = weight[:, :, None]
    for k, j in ((1, 150), (4, 10)):
        left, right = low_rank_factors(matrix, k, j)
        rest = weight.double() - product(left, right)
        exact = float(torch.linalg.matrix_norm(rest, 2))
        assert residual_norm(matrix, left, right) == pytest.approx(exact, rel=1e-9)
        least = float(torch.linalg.vector_norm(weight.double() - truncated(matrix, k, j)))
        assert float(torch.linalg.vector_norm(rest)) == pytest.approx(least, rel=1e-9)
