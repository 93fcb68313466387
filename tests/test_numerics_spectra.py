"""Spectra from Gram matrices against dense singular value decompositions."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.numerics import (
    eigenvalues,
    grams,
    large_grams,
    shared_grams,
    spectra,
)
from alds_cli.numerics import (
    eigenvalues as spectral_norms,
)
from alds_cli.numerics.fold import distinct_schemes, divisors, fold
from alds_cli.numerics.grams import low_rank_factors
from alds_cli.numerics.spectra import SpectraJob
from alds_cli.runtime.pool import run_jobs

UNIT = 2.0**-53


def spectra_of(matrix, ks, groups=1):
    job = SpectraJob(matrix, ks, groups, prove=False)
    run_jobs([job])
    return job.curves(), job.norm


def exact_values(matrix, k, groups=1):
    """(groups, k, n) singular values of the slices, each by a dense SVD in float64."""
    step = matrix.shape[1] // k
    return np.stack(
        [
            [
                torch.linalg.svdvals(own[:, i * step : (i + 1) * step].double().flatten(1)).numpy()
                for i in range(k)
            ]
            for own in matrix.chunk(groups)
        ]
    )


def require_equal_curves(matrix, ks, groups=1):
    """The curves are those of the exact values, and never below them."""
    curves, norm = spectra_of(matrix, ks, groups)
    terms = matrix.shape[0] * matrix.shape[1] * matrix.shape[2]
    assert norm == pytest.approx(exact_values(matrix, 1, groups)[:, 0, 0].max(), rel=1e-13)
    assert set(curves) == set(ks)
    for k, curve in curves.items():
        values = exact_values(matrix, k, groups)
        energies = np.square(values)
        squares = np.append(energies.sum(1).max(0), 0.0)
        largest = np.append(values.max((0, 1)), 0.0)
        tails = np.append(energies.sum((0, 1))[::-1].cumsum()[::-1], 0.0)
        saved = np.append(energies.sum((0, 1)), 0.0)
        rounding = 50 * np.sqrt(terms) * UNIT * float(energies.sum())
        for found in (curve.sum_squares, curve.largest, curve.tail_energy, curve.saved):
            assert found.shape == squares.shape
            assert np.isfinite(found).all()
            assert found[-1] == 0
            assert (np.diff(found) <= 0).all()
        np.testing.assert_allclose(curve.sum_squares, squares, rtol=1e-12, atol=rounding)
        np.testing.assert_allclose(curve.largest**2, largest**2, rtol=1e-12, atol=rounding)
        np.testing.assert_allclose(curve.tail_energy, tails, rtol=1e-12, atol=rounding)
        np.testing.assert_allclose(curve.saved, saved, rtol=1e-12, atol=rounding)
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


@settings(max_examples=50, deadline=None)
@given(weights(), st.sampled_from([1, 2, 3, 32]))
def test_curves_of_groups_are_those_of_dense_svds(weight, groups):
    weight = torch.cat([weight * factor for factor in torch.linspace(0.5, 2, groups)])
    for scheme in distinct_schemes(tuple(weight.shape[2:])):
        require_equal_curves(fold(weight, scheme), divisors(weight.shape[1]), groups)


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
def test_measures_are_ordered(weight):
    ks = divisors(weight.shape[1])
    curves, _ = spectra_of(fold(weight, 0), ks)
    for k in ks:
        curve, rounding = curves[k], 1 + 1e-14
        assert (curve.largest**2 <= curve.sum_squares * rounding).all()
        assert (curve.sum_squares <= k * curve.largest**2 * rounding).all()
        assert np.array_equal(curve.saved, curve.sum_squares)


@pytest.fixture(params=["blocks", "families", "large", "all"])
def tiny_memory(request, monkeypatch):
    """Everything that is done in pieces is done in the smallest ones."""
    tiny = replace(shared_grams.CORE, batch=8 * 40)
    if request.param in {"blocks", "all"}:
        for module in (grams, spectral_norms):
            monkeypatch.setattr(module, "CHUNK_BYTES", 8 * 40)
        tiny = replace(tiny, block=8 * 40, stripe=3)
        monkeypatch.setattr(large_grams, "_PANEL_BYTES", 8 * 20)
    if request.param in {"families", "all"}:
        tiny = replace(tiny, family=8 * 10 * 10 * 3)
    if request.param != "large":
        monkeypatch.setattr(shared_grams, "CORE", tiny)
    if request.param in {"large", "all"}:
        monkeypatch.setattr(spectra, "LARGE", 5)
        monkeypatch.setattr(large_grams, "_TILE", 4)


@pytest.mark.mostly_slow(7)
@pytest.mark.parametrize("shape", [(10, 24, 3, 3), (40, 24), (10, 60), (7, 12, 1, 3), (64, 6, 2)])
@pytest.mark.parametrize("kind", ["gaussian", "dead"])
def test_pieces_give_what_the_whole_gives(tiny_memory, shape, kind):
    del tiny_memory
    weight = weight_of(kind, shape, 0).float()
    for scheme in distinct_schemes(shape[2:]):
        matrix = fold(weight, scheme)
        require_equal_curves(matrix, divisors(shape[1]))
        require_equal_curves(torch.cat([matrix, 2 * matrix]), divisors(shape[1]), 2)
        for k in divisors(shape[1])[:4]:
            full = min(matrix.shape[0], matrix.shape[1] * matrix.shape[2] // k)
            left, right = low_rank_factors(matrix, k, full)
            product = (left @ right).permute(1, 0, 2).reshape(matrix.shape)
            torch.testing.assert_close(product, matrix.double(), rtol=0, atol=1e-12)
            left, right = low_rank_factors(matrix, k, 1)
            rest = matrix.double() - (left @ right).permute(1, 0, 2).reshape(matrix.shape)
            exact = float(torch.linalg.matrix_norm(rest.flatten(1), 2))
            assert spectral_norms.residual_norm(matrix, left, right) == pytest.approx(
                exact, rel=1e-12
            )


@pytest.mark.mostly_slow(7)
@pytest.mark.parametrize("groups", [1, 2, 5])
@pytest.mark.parametrize("ks", [(1,), (1, 2), (1, 3, 4, 6), (1, 2, 3, 4, 6, 8, 12, 24), (1, 5, 7)])
@pytest.mark.parametrize("rows", [3, 20, 90])
def test_each_slice_of_each_k_comes_once(ks, rows, groups):
    channels = 35 if 5 in ks else 24
    matrix = torch.randn(groups * rows, channels, 2)
    for block, batch_bytes in ((2**21, 2**21), (64, 64), (64, 10**5)):
        for family in (2**26, 4 * 8 * rows * rows, 0):
            portions = shared_grams.Portions(block, batch_bytes, family, stripe=7)
            slicing = replace(shared_grams.Slicing.of(matrix, groups), portions=portions)
            covered = {k: [] for k in ks}
            for leader, others in shared_grams.families(slicing, ks):
                for batch in shared_grams.family_grams(slicing, leader, others):
                    step = channels // batch.k
                    for offset, gram in enumerate(batch.grams):
                        covered[batch.k].append(batch.first + offset)
                        group, index = divmod(batch.first + offset, batch.k)
                        own = matrix.chunk(groups)[group][:, index * step : (index + 1) * step]
                        part = own.double().flatten(1)
                        wide = rows < part.shape[1]
                        expected = part @ part.T if wide else part.T @ part
                        torch.testing.assert_close(
                            gram.tril(), expected.tril(), rtol=1e-13, atol=1e-13
                        )
            assert {k: sorted(found) for k, found in covered.items()} == {
                k: list(range(groups * k)) for k in ks
            }


def test_batches_of_grams_are_the_receivers_to_keep():
    slicing = shared_grams.Slicing.of(torch.randn(4, 8, 1))
    batches = [
        batch
        for family in shared_grams.families(slicing, (1, 2, 4, 8))
        for batch in shared_grams.family_grams(slicing, *family)
    ]
    pointers = [batch.grams.untyped_storage().data_ptr() for batch in batches]
    assert len(set(pointers)) == len(pointers) == 4


@pytest.mark.parametrize("shape", [(64, 48, 3, 3), (200, 64), (30, 300), (700, 800), (900, 700)])
def test_threads_change_no_bit(threads, shape, monkeypatch):
    monkeypatch.setattr(spectra, "LARGE", 256)  # the last two are formed by several workers
    monkeypatch.setattr(large_grams, "_TILE", 256)
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


PEAK = """
import torch
from alds_cli.runtime.pool import run_jobs
from alds_cli.numerics.spectra import SpectraJob

def peak(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what)) / 1024

torch.set_num_threads(4)
run_jobs([SpectraJob(torch.randn(1100, 64, 20), (1, 2, 4))])  # the libraries' own buffers
matrix = torch.randn(2048, 2304, 1)
before = peak("VmRSS")
run_jobs([SpectraJob(matrix, (1, 2, 3, 4, 6, 8))], memory={memory} << 20)
print(peak("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("memory", [60, 120])
def test_large_layers_stay_within_the_memory(memory):
    """A square of 2048 takes 32 MiB; all 24 that are made would take several hundred."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(memory=memory)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert 32 < float(done.stdout) < memory + 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(512, 256, 3, 3), (1000, 512), (64, 3, 7, 7), (96, 576)])
def test_curves_of_layers_of_usual_size(kind, shape):
    weight = weight_of(kind, shape, 3).float()
    for scheme in distinct_schemes(shape[2:]):
        require_equal_curves(fold(weight, scheme), divisors(shape[1]))


@pytest.mark.parametrize("shape", [(12, 24, 9), (40, 12, 1), (16, 16, 1)])
@pytest.mark.parametrize("fallback", [False, True])
def test_eigenvalues_in_the_matrix_own_memory_are_the_same(monkeypatch, shape, fallback):
    monkeypatch.setattr(spectra, "LARGE", 1)
    if fallback:
        monkeypatch.setattr(eigenvalues, "_torch_lapack", lambda: None)
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    require_equal_curves(matrix, divisors(shape[1]))


@pytest.mark.parametrize("absent", ["library", "routine", "system"])
def test_lapack_that_cannot_be_reached_is_done_without(monkeypatch, tmp_path, absent):
    """Where torch's library is not there, or does not show the routine, SciPy's takes its place."""
    matrix = torch.randn(30, 50, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gram = matrix @ matrix.T
    expected = np.linalg.eigvalsh(gram.numpy())[::-1]
    if absent == "system":
        monkeypatch.setattr(eigenvalues.platform, "system", lambda: "Plan 9")
    elif absent == "library":
        monkeypatch.setattr(eigenvalues.torch, "__file__", str(tmp_path / "__init__.py"))
    else:
        monkeypatch.setattr(eigenvalues.ctypes, "CDLL", _Bare)
    eigenvalues._torch_lapack.cache_clear()
    try:
        assert eigenvalues._torch_lapack() is None
        found = eigenvalues.eigenvalues_in_place(gram)
    finally:
        eigenvalues._torch_lapack.cache_clear()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * expected[0])


class _Bare:
    """A library that shows nothing."""

    def __init__(self, path):
        del path

    def __getitem__(self, name):
        raise AttributeError(name)
