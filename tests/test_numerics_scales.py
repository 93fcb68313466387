"""Bounds hold and errors are true at every scale that a type can hold, from end to end.

The reference divides by powers of two, which rounds nothing, before it multiplies anything.
"""

from __future__ import annotations

import copy
from math import frexp

import numpy as np
import pytest
import torch
from torch import nn

from alds_cli.allocation import (
    ERROR_DEFINITIONS,
    error_bound,
    operator_bound,
    rounding_of_factors,
)
from alds_cli.allocation import PROVEN_BOUNDS as PROVEN
from alds_cli.compression.factorise import carry_out
from alds_cli.compression.filter_removal import _depthwise_error, _ErrorJob
from alds_cli.numerics.clustering.clustered_factors import cluster_factors, clustered_residual
from alds_cli.numerics.eigenvalues import operator_norm, residual_norm, spectral_norm
from alds_cli.numerics.fold import fold, unfold
from alds_cli.numerics.grams import in_units, low_rank_factors, unit_exponent
from alds_cli.profiling import TrueErrors, error_tables, tabled_norm
from alds_cli.records import (
    CLUSTERED,
    Choice,
    Kept,
    Plan,
)
from alds_cli.surgery import find_layers, weight_at

SCALES = {
    torch.float64: (
        1e-322, 1e-310, 1e-307, 1e-250, 1e-200, 1e-162, 1e-154, 1e-100, 1e-31, 1e-29,
        1.0, 1e29, 1e31, 1e99, 1e154, 1e200, 1e306,
    ),
    torch.float32: (1e-44, 1e-40, 1e-31, 1.0, 1e31, 1e37),
    torch.bfloat16: (1e-40, 1e-31, 1.0, 1e37),
    torch.float16: (1e-7, 1e-5, 1.0, 1e4),
}  # fmt: skip
EDGES = {1e-322, 1e-307, 1e-200, 1e-154, 1e-44, 1e-40, 1e-7, 1.0, 1e4, 1e37, 1e154, 1e306}
"""Where numbers or their squares leave what a type holds, and ordinary weights."""

CASES = [
    pytest.param(dtype, scale, marks=() if scale in EDGES else pytest.mark.slow)
    for dtype, scales in SCALES.items()
    for scale in scales
]

each_scale = pytest.mark.parametrize(("dtype", "scale"), CASES)


def network():
    return nn.Sequential(
        nn.Conv2d(12, 16, 3, bias=False),
        nn.Conv2d(16, 16, 3, groups=2, bias=False),
        nn.ConvTranspose2d(16, 10, (1, 3), bias=False),
        nn.Conv1d(10, 12, 5, bias=False),
        nn.Linear(24, 18, bias=False),
        nn.Linear(8, 40, bias=False),
    )


def shapes_of_values(rng, shape):
    """Kinds of weights near 1: plain, of low rank, and of scales far apart."""
    plain = rng.standard_normal(shape)
    yield plain
    left, right = rng.standard_normal((shape[0], 2)), rng.standard_normal((2, *shape[1:]))
    yield np.tensordot(left, right, 1) / 2
    channels = 10.0 ** rng.integers(-300, 1, shape[1])
    yield plain * channels.reshape(1, -1, *[1] * len(shape[2:]))
    rows = 10.0 ** rng.integers(-300, 1, shape[0])
    yield plain * rows.reshape(-1, *[1] * len(shape[1:]))


def networks(dtype, scale, seed=0):
    """Networks of all kinds of weights, at a scale."""
    rng = np.random.default_rng(seed)
    for kind in range(4):
        module = network()
        for layer in module:
            values = list(shapes_of_values(rng, layer.weight.shape))[kind]
            # Twice, or 1e-322 would make zeros of what is in between.
            weight = torch.from_numpy(values).clamp(-4, 4) * scale
            layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        yield module


def scaled_norm(values):
    return float(np.linalg.norm(values, 2))


def true_error(matrix, left, right, groups):
    """‖M − M̂‖₂ / ‖M‖₂ of factors as they are stored."""
    exponent = frexp(float(matrix.double().abs().max()))[1]
    exponent = max(exponent, -1000)  # or the inverse power would be infinite
    errors, norms = [], []
    for whole, lefts, rights in zip(
        matrix.double().chunk(groups), left.chunk(groups), right.chunk(groups), strict=True
    ):
        first = max(frexp(float(lefts.double().abs().max()))[1], exponent - 1000)
        products = (lefts.double() * 2.0**-first) @ (rights.double() * 2.0 ** (first - exponent))
        built = products.transpose(0, 1).flatten(1).numpy()
        near = (whole * 2.0**-exponent).flatten(1).numpy()
        errors.append(scaled_norm(near - built))
        norms.append(scaled_norm(near))
    return max(errors) / max(norms) if max(norms) > 0 else 0.0


def operator_error(weight, left, right, scheme, groups):
    """The same of the weight folded by scheme 0, whatever scheme the factors are of."""
    exponent = max(frexp(float(weight.double().abs().max()))[1], -1000)
    errors, norms = [], []
    for own, lefts, rights in zip(
        weight.double().chunk(groups), left.chunk(groups), right.chunk(groups), strict=True
    ):
        first = max(frexp(float(lefts.double().abs().max()))[1], exponent - 1000)
        products = (lefts.double() * 2.0**-first) @ (rights.double() * 2.0 ** (first - exponent))
        built = unfold(products.transpose(0, 1).flatten(1), tuple(own.shape), scheme)
        near = own * 2.0**-exponent
        errors.append(scaled_norm((near - built).flatten(1).numpy()))
        norms.append(scaled_norm(near.flatten(1).numpy()))
    return max(errors) / max(norms) if max(norms) > 0 else 0.0


def some_choices(table, rng, count=2):
    """Rows of a table of every scheme, the least and the largest ranks among them."""
    rows = rng.choice(len(table.choices), min(count, len(table.choices)), replace=False)
    return [Choice(*table.choices[row].tolist()) for row in {0, len(table.choices) - 1, *rows}]


@pytest.mark.mostly_slow(3)
@each_scale
def test_reported_errors_are_true_and_bounds_are_bounds(dtype, scale):
    rng = np.random.default_rng(1)
    for module in networks(dtype, scale):
        specs = find_layers(module)
        tables, _ = error_tables(module, specs, schemes=(0, 1, 2, 3), cache=False)
        choices = {name: some_choices(own, rng) for name, own in tables.layers.items()}
        for index in range(min(len(own) for own in choices.values())):
            plan = {name: own[index] for name, own in choices.items()}
            for report in carry_out(copy.deepcopy(module), specs, tables, Plan(plan)):
                weight, table = weight_at(module, report.name), tables.layers[report.name]
                require_true(report, weight, table)


def require_true(report, weight, table):
    choice, groups = report.choice, table.spec.groups
    matrix = fold(weight, choice.scheme)
    left, right = low_rank_factors(matrix, choice.k, choice.j, weight.dtype, groups)
    assert left.isfinite().all()
    assert right.isfinite().all()
    true = true_error(matrix, left, right, groups)
    operators = operator_error(weight, left, right, choice.scheme, groups)
    assert report.error == pytest.approx(operators, rel=1e-7, abs=1e-13)
    assert operators <= report.error_bound
    assert report.error <= report.error_bound
    rounding = rounding_of_factors(table, choice, weight.dtype)
    norm = tabled_norm(table) or operator_norm(weight, groups, unit_exponent(weight))
    for definition in PROVEN:
        assert true <= error_bound(table, choice, definition, rounding)
        assert operators <= operator_bound(table, choice, definition, norm, rounding)


@pytest.mark.mostly_slow(3)
@each_scale
def test_errors_computed_for_the_allocation_are_true(dtype, scale):
    """Those of `--bound exact`, and the bound that they then are in the report."""
    rng = np.random.default_rng(2)
    for module in networks(dtype, scale, seed=1):
        specs = find_layers(module)
        tables, _ = error_tables(module, specs, schemes=(0, 1), cache=False)
        true_errors = TrueErrors(module, tables)
        plan = {name: some_choices(own, rng, 1)[-1] for name, own in tables.layers.items()}
        found = true_errors(list(plan.items()))
        for error, (name, choice) in zip(found, plan.items(), strict=True):
            matrix, groups = fold(weight_at(module, name), choice.scheme), specs[name].groups
            unit = unit_exponent(matrix)
            near = in_units(matrix, unit).double()
            left, right = low_rank_factors(near, choice.k, choice.j, groups=groups)
            assert error == pytest.approx(true_error(near, left, right, groups), rel=1e-6, abs=1e-7)
        reports = carry_out(copy.deepcopy(module), specs, true_errors.tables, Plan(plan))
        for report in reports:
            require_true(
                report, weight_at(module, report.name), true_errors.tables.layers[report.name]
            )


@pytest.mark.parametrize("power", [-1000, -700, -400, -102, 102, 400, 700, 1000])
@pytest.mark.parametrize("definition", ERROR_DEFINITIONS)
def test_no_measure_depends_on_the_scale(power, definition):
    module = network().double().requires_grad_(requires_grad=False)
    specs = find_layers(module)
    usual, _ = error_tables(module, specs, schemes=(0, 1, 2, 3), cache=False)
    for layer in module:
        layer.weight *= 2.0**power
    scaled, _ = error_tables(module, specs, schemes=(0, 1, 2, 3), cache=False)
    measure = ERROR_DEFINITIONS[definition]
    for name, table in usual.layers.items():
        assert np.array_equal(measure(scaled.layers[name]), measure(table))


@each_scale
def test_errors_of_clusters_are_true(dtype, scale):
    for module in networks(dtype, scale):
        for layer in (module[0], module[4], module[5]):
            matrix = fold(layer.weight, CLUSTERED)
            factors = cluster_factors(matrix, 2, 2, starts=1, dtype=dtype)
            unit = unit_exponent(matrix)
            found = clustered_residual(matrix, factors, unit)
            left = factors.second.view(len(matrix), 2, 2).transpose(0, 1)
            flat = matrix.flatten(1)[:, factors.order.long()]
            ends = [0, *np.cumsum(factors.sizes.tolist())]
            right = torch.zeros(2, 2, flat.shape[1], dtype=dtype)
            for index in range(2):
                own = slice(ends[index], ends[index + 1])
                right[index, :, own] = factors.first[:, own]
            # As one slice of rank 4, whose halves are the clusters' side by side.
            whole = left.transpose(0, 1).flatten(1)[None], right.flatten(0, 1)[None]
            expected = true_error(flat, *whole, 1) * spectral_norm(flat, unit)
            assert found == pytest.approx(expected, rel=1e-7, abs=1e-13 * spectral_norm(flat, unit))


@each_scale
def test_errors_of_removed_filters_are_true(dtype, scale):
    weight = next(iter(networks(dtype, scale)))[0].weight
    kept = Kept(outputs=tuple(range(5)), inputs=tuple(range(7)))
    job = _ErrorJob(weight, kept)
    job(lambda *_: None)
    near = in_units(weight, unit_exponent(weight)).double().numpy()
    lost = near.copy()
    lost[:5, :7] = 0
    expected = scaled_norm(lost.reshape(16, -1)) / scaled_norm(near.reshape(16, -1))
    assert job.error == pytest.approx(expected, rel=1e-9)
    blocks = np.linalg.norm(near.reshape(16, -1), axis=1)
    assert _depthwise_error(weight, Kept(outputs=(0, 1, 2))) == pytest.approx(
        blocks[3:].max() / blocks.max(), rel=1e-9
    )


@pytest.mark.parametrize("power", [-1060, -1000, -500, 0, 500, 1000])
def test_norms_are_told_in_any_unit(power):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(9, 4, 3, generator=generator, dtype=torch.float64)
    left, right = low_rank_factors(matrix, 2, 2)
    usual = residual_norm(matrix, left, right)
    low, high = power // 2, power - power // 2
    found = residual_norm(
        matrix * 2.0**low * 2.0**high, left * 2.0**low, right * 2.0**high, unit=power
    )
    # Below 2**-1022 the matrix itself has fewer bits.
    assert found == (pytest.approx(usual, rel=1e-4) if power < -1000 else usual)
