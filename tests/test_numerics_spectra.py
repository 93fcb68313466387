"""Spectra from Gram matrices against dense singular value decompositions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.allocation import ERROR_DEFINITIONS, error_bounds
from alds_cli.numerics import grams, norms, spectra
from alds_cli.numerics.costs import divisors
from alds_cli.numerics.factors import low_rank_factors
from alds_cli.numerics.fold import distinct_schemes, fold
from alds_cli.numerics.pool import run_jobs
from alds_cli.numerics.spectra import SpectraJob, gram_batches
from alds_cli.records import LayerSpec, LayerTable

UNIT = 2.0**-53


def spectra_of(matrix, ks):
    job = SpectraJob(matrix, ks)
    run_jobs([job])
    return job.curves(), job.norm


def exact_values(matrix, k):
    """(k, n) singular values of the slices, each by a dense SVD in float64."""
    step = matrix.shape[1] // k
    slices = [matrix[:, i * step : (i + 1) * step].double().flatten(1) for i in range(k)]
    return np.stack([torch.linalg.svdvals(part).numpy() for part in slices])


def require_equal_curves(matrix, ks):
    """The curves are those of the exact values, and never below them."""
    curves, norm = spectra_of(matrix, ks)
    terms = matrix.shape[0] * matrix.shape[1] * matrix.shape[2]
    whole = exact_values(matrix, 1)[0]
    assert norm == pytest.approx(whole[0], rel=1e-13)
    assert set(curves) == set(ks)
    for k, curve in curves.items():
        values = exact_values(matrix, k)
        squares = np.append(np.square(values).sum(0), 0.0)
        largest = np.append(values.max(0), 0.0)
        tails = np.append(np.square(values)[:, ::-1].cumsum(1)[:, ::-1].sum(0), 0.0)
        rounding = 50 * np.sqrt(terms) * UNIT * float(np.square(values).sum())
        for found in (curve.sum_squares, curve.largest, curve.tail_energy):
            assert found.shape == squares.shape
            assert np.isfinite(found).all()
            assert found[-1] == 0
            assert (np.diff(found) <= 0).all()
        np.testing.assert_allclose(curve.sum_squares, squares, rtol=1e-12, atol=rounding)
        np.testing.assert_allclose(curve.largest**2, largest**2, rtol=1e-12, atol=rounding)
        np.testing.assert_allclose(curve.tail_energy, tails, rtol=1e-12, atol=rounding)
        assert (curve.sum_squares >= squares * (1 - 1e-14)).all()
        assert (curve.largest >= largest * (1 - 1e-14)).all()


KINDS = ("gaussian", "low-rank", "dead", "zero", "repeated", "decaying", "one-entry")


def weight_of(kind, shape, seed):
    """A weight with a spectrum of that kind, in float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if kind == "low-rank":
        flat = weight.flatten(1)
        weight = (flat[:, :1] @ flat[:1]).reshape(shape)
    elif kind == "dead":
        weight[:, ::2] = 0
        weight[: shape[0] // 2] = 0
    elif kind == "zero":
        weight.zero_()
    elif kind == "repeated":
        flat = torch.nn.init.orthogonal_(weight.flatten(1).clone(), generator=generator)
        weight = flat.reshape(shape)
    elif kind == "decaying":
        weight = weight * torch.logspace(0, -12, shape[1]).double().view(
            1, -1, *[1] * len(shape[2:])
        )
    elif kind == "one-entry":
        weight.zero_()
        weight.view(-1)[seed % weight.numel()] = -3.0
    return weight


@st.composite
def weights(draw):
    kernel = draw(st.sampled_from([(), (1, 1), (1, 3), (3, 1), (3, 3), (2,), (2, 1, 2)]))
    shape = (draw(st.integers(1, 20)), draw(st.sampled_from([1, 2, 4, 6, 12])), *kernel)
    weight = weight_of(draw(st.sampled_from(KINDS)), shape, draw(st.integers(0, 10_000)))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
    exponents = st.integers(-3, 3) if dtype == torch.float16 else st.integers(-20, 20)
    return (weight * 10.0 ** draw(exponents)).to(dtype)


@settings(max_examples=50, deadline=None)
@given(weights())
def test_curves_are_those_of_dense_svds(weight):
    for scheme in distinct_schemes(tuple(weight.shape[2:])):
        require_equal_curves(fold(weight, scheme), divisors(weight.shape[1]))


@settings(max_examples=25, deadline=None)
@given(weights(), st.data())
def test_the_bound_holds_for_the_approximation_that_is_built(weight, data):
    scheme = data.draw(st.sampled_from(distinct_schemes(tuple(weight.shape[2:]))))
    matrix = fold(weight, scheme)
    k = data.draw(st.sampled_from(divisors(weight.shape[1])))
    curves, norm = spectra_of(matrix, sorted({1, k}))
    if norm == 0:
        assert not weight.any()
        return
    dense = matrix.double()
    for j in range(1, len(curves[k].largest)):
        left, right = low_rank_factors(matrix, k, j)
        approximation = (left @ right).permute(1, 0, 2).reshape(dense.shape)
        true = float(torch.linalg.matrix_norm((dense - approximation).flatten(1), 2)) / norm
        assert np.sqrt(curves[k].sum_squares[j]) / norm >= true * (1 - 1e-12) - 1e-14
        lost = float((dense - approximation).square().sum())
        energy = float(dense.square().sum())
        assert curves[k].tail_energy[j] == pytest.approx(lost, rel=1e-6, abs=1e-13 * energy)


@settings(max_examples=25, deadline=None)
@given(weights())
def test_error_definitions_are_ordered(weight):
    shape = tuple(weight.shape)
    spec = LayerSpec("l", "conv2d", shape[0], shape[1], shape[2:])
    ks = divisors(shape[1])
    curves, norm = spectra_of(fold(weight, 0), ks)
    table = LayerTable(spec, {0: norm}, {(0, k): curve for k, curve in curves.items()})
    for k in ks:
        found = {name: rule(table, 0, k) for name, rule in ERROR_DEFINITIONS.items()}
        rounding = 1e-14
        assert (found["sum"] <= found["theorem1"] * (1 + rounding)).all()
        assert (found["published-code"] <= found["sum"] * (1 + rounding)).all()
        for name, values in found.items():
            assert np.isfinite(values).all()
            assert (values >= 0).all()
            assert (np.diff(values) <= 0).all()
            assert values[-1] == 0
            bounds = error_bounds(table, 0, k, name)
            assert (bounds <= 1).all()
            assert (np.diff(bounds) <= 0).all()
            # a bound that is reported for a definition that proves nothing is `sum`'s
            proven = values if name in {"sum", "theorem1"} else found["sum"]
            assert np.array_equal(bounds, np.minimum(proven, 1))


@pytest.fixture(params=["chunks", "families", "both"])
def tiny_memory(request, monkeypatch):
    """Everything that is done in pieces is done in the smallest ones."""
    if request.param in {"chunks", "both"}:
        for module in (grams, spectra, norms):
            monkeypatch.setattr(module, "CHUNK_BYTES", 8 * 40)
    if request.param in {"families", "both"}:
        monkeypatch.setattr(spectra, "FAMILY_BYTES", 8 * 10 * 10 * 3)
        monkeypatch.setattr(grams, "CHUNK_BYTES", 8 * 40)
        monkeypatch.setattr(spectra, "CHUNK_BYTES", 8 * 40)


@pytest.mark.parametrize("shape", [(10, 24, 3, 3), (40, 24), (10, 60), (7, 12, 1, 3), (64, 6, 2)])
@pytest.mark.parametrize("kind", ["gaussian", "dead"])
def test_pieces_give_what_the_whole_gives(tiny_memory, shape, kind):
    del tiny_memory
    weight = weight_of(kind, shape, 0).float()
    for scheme in distinct_schemes(shape[2:]):
        matrix = fold(weight, scheme)
        require_equal_curves(matrix, divisors(shape[1]))
        for k in divisors(shape[1])[:4]:
            full = min(matrix.shape[0], matrix.shape[1] * matrix.shape[2] // k)
            left, right = low_rank_factors(matrix, k, full)
            product = (left @ right).permute(1, 0, 2).reshape(matrix.shape)
            torch.testing.assert_close(product, matrix.double(), rtol=0, atol=1e-12)
            left, right = low_rank_factors(matrix, k, 1)
            rest = matrix.double() - (left @ right).permute(1, 0, 2).reshape(matrix.shape)
            exact = float(torch.linalg.matrix_norm(rest.flatten(1), 2))
            assert norms.residual_norm(matrix, left, right) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("ks", [(1,), (1, 2), (1, 3, 4, 6), (1, 2, 3, 4, 6, 8, 12, 24), (1, 5, 7)])
@pytest.mark.parametrize("rows", [3, 20, 90])
def test_each_slice_of_each_k_comes_once(ks, rows, monkeypatch):
    channels = 35 if 5 in ks else 24
    matrix = torch.randn(rows, channels, 2)
    for chunk in (spectra.CHUNK_BYTES, 64):
        for family in (spectra.FAMILY_BYTES, 4 * 8 * rows * rows, 0):
            monkeypatch.setattr(spectra, "CHUNK_BYTES", chunk)
            monkeypatch.setattr(grams, "CHUNK_BYTES", chunk)
            monkeypatch.setattr(spectra, "FAMILY_BYTES", family)
            covered = {k: [] for k in ks}
            for batch in gram_batches(matrix, ks):
                step = channels // batch.k
                for offset, gram in enumerate(batch.grams):
                    index = batch.first + offset
                    covered[batch.k].append(index)
                    part = matrix[:, index * step : (index + 1) * step].double().flatten(1)
                    wide = rows <= part.shape[1]
                    expected = part @ part.T if wide else part.T @ part
                    torch.testing.assert_close(gram, expected, rtol=1e-13, atol=1e-13)
            assert {k: sorted(found) for k, found in covered.items()} == {
                k: list(range(k)) for k in ks
            }


def test_batches_of_grams_are_the_receivers_to_keep():
    matrix = torch.randn(4, 8, 1)
    batches = list(gram_batches(matrix, (1, 2, 4, 8)))
    pointers = [batch.grams.untyped_storage().data_ptr() for batch in batches]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("shape", [(64, 48, 3, 3), (200, 64), (30, 300)])
def test_threads_change_no_bit(threads, shape):
    weight = weight_of("gaussian", shape, 1).float()
    found = []
    for count in (1, 4, 2):
        threads(count)
        curves, norm = spectra_of(fold(weight, 0), divisors(shape[1]))
        found.append(
            (
                norm,
                {
                    k: (c.sum_squares.tobytes(), c.largest.tobytes(), c.tail_energy.tobytes())
                    for k, c in curves.items()
                },
            )
        )
    assert found[0] == found[1] == found[2]


def test_memory_that_a_job_claims_is_about_what_it_takes():
    small = SpectraJob(torch.zeros(8, 8, 9), (1, 8))
    large = SpectraJob(torch.zeros(4096, 8, 9), (1, 8))
    assert large.nbytes >= small.nbytes > 0
    assert large.work > small.work
    # 72 columns at most: no matrix of 4096 × 4096 is ever made
    assert large.nbytes < 8 * 4096**2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(512, 256, 3, 3), (1000, 512), (64, 3, 7, 7), (96, 576)])
def test_curves_of_layers_of_usual_size(kind, shape):
    weight = weight_of(kind, shape, 3).float()
    for scheme in distinct_schemes(shape[2:]):
        require_equal_curves(fold(weight, scheme), divisors(shape[1]))


@pytest.mark.parametrize("shape", [(12, 24, 9), (40, 12, 1), (16, 16, 1)])
def test_eigenvalues_in_the_matrix_own_memory_are_the_same(monkeypatch, shape):
    monkeypatch.setattr(spectra, "_IN_PLACE", 1)
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    require_equal_curves(matrix, divisors(shape[1]))
