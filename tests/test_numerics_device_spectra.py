"""Spectra on a device: the same code on the CPU, and on CUDA where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.numerics.device_spectra import device_spectra
from alds_cli.numerics.fold import divisors
from alds_cli.numerics.spectra import SpectraJob, rounding_share
from alds_cli.runtime.pool import run_jobs

CPU = torch.device("cpu")

KINDS = ("gaussian", "low-rank", "zero", "equal", "decaying", "positive", "dead")


def matrix_of(kind, shape, seed, exponent=0):
    """(rows, c, q) in float32 with a spectrum of that kind."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(*shape, generator=generator, dtype=torch.float64)
    flat = matrix.flatten(1)
    if kind == "low-rank":
        matrix = (flat[:, :1] @ flat[:1]).view(shape)
    elif kind == "zero":
        matrix = torch.zeros(shape)
    elif kind == "equal":
        matrix = torch.nn.init.orthogonal_(flat.clone(), generator=generator).view(shape)
    elif kind == "decaying":
        matrix = matrix * torch.logspace(0, -12, shape[1]).double()[:, None]
    elif kind == "positive":  # one value far above the rest
        matrix = matrix.abs() + 1
    elif kind == "dead":
        matrix[:, ::2] = 0
    return (matrix * 10.0**exponent).float()


def singular_values(matrix, k, groups):
    """(groups, k, n), by dense SVDs in float64."""
    return np.stack(
        [
            [torch.linalg.svdvals(part.double().flatten(1)).numpy() for part in own.chunk(k, 1)]
            for own in matrix.chunk(groups)
        ]
    )


def require_bounds(matrix, groups, norm, curves):
    """Never below the exact values, and above them by no more than was allowed for."""
    whole = singular_values(matrix, 1, groups).max()
    share = rounding_share(len(matrix) // groups + matrix[0].numel())
    for k, curve in curves.items():
        energies = np.square(singular_values(matrix, k, groups))
        # Once for the allowance of every value, and once for what it allows for.
        most = 2 * share * float(energies.sum())
        for found, exact in (
            (curve.sum_squares, energies.sum(1).max(0)),
            (curve.largest**2, energies.max((0, 1))),
            (curve.saved, energies.sum((0, 1))),
        ):
            assert found[-1] == 0
            assert (found[:-1] >= exact * (1 - 1e-14)).all()
            assert (found[:-1] <= exact * (1 + 1e-12) + most).all()
    assert norm == pytest.approx(whole, rel=1e-13)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 60),
    st.sampled_from([1, 4, 12, 30]),
    st.sampled_from([1, 3, 9]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([-20, -3, 0, 15]),
    st.integers(0, 1000),
)
def test_curves_are_bounds(kind, rows, channels, width, groups, exponent, seed):
    matrix = matrix_of(kind, (groups * rows, channels, width), seed, exponent)
    found = device_spectra(matrix, divisors(channels), groups, device=CPU)
    require_bounds(matrix, groups, *found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(256, 64, 9), (500, 300, 1)])
def test_curves_are_bounds_at_usual_sizes(kind, shape):
    matrix = matrix_of(kind, shape, 1)
    require_bounds(matrix, 1, *device_spectra(matrix, (1, 2, 4), device=CPU))


@pytest.mark.parametrize("groups", [1, 3])
def test_in_float64_it_is_what_the_workers_find(groups):
    matrix = matrix_of("gaussian", (60, 24, 9), 0)
    norm, curves = device_spectra(matrix, divisors(24), groups, device=CPU)
    job = SpectraJob(matrix, divisors(24), groups)
    run_jobs([job])
    assert norm == pytest.approx(job.norm, rel=1e-13)
    for k, curve in job.curves().items():
        for name in ("sum_squares", "largest", "tail_energy", "saved"):
            found, expected = getattr(curves[k], name), getattr(curve, name)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * expected[0])


def test_the_norm_needs_one_slice():
    with pytest.raises(ValueError, match="one slice"):
        device_spectra(torch.randn(4, 4, 1), (2, 4), device=CPU)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "groups"), [((256, 64, 9), 1), ((500, 300, 1), 1), ((128, 4, 9), 32)]
)
def test_curves_from_cuda_are_bounds(kind, shape, groups):
    matrix = matrix_of(kind, shape, 1)
    found = device_spectra(matrix, divisors(shape[1]), groups, device=torch.device("cuda"))
    require_bounds(matrix, groups, *found)
