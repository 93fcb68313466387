"""Folding, and pairs of weights as factors: each undone by its opposite."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.numerics.fold import (
    distinct_schemes,
    divisors,
    factors_to_weights,
    fold,
    folded_shape,
    full_rank,
    multiply_back,
    pair_params,
    pair_shapes,
    unfold,
    weights_to_factors,
)
from alds_cli.records import SCHEMES


@st.composite
def weights(draw):
    """(weight, scheme): a scheme that applies, whether or not it differs from another."""
    kernel = draw(st.lists(st.integers(1, 4), max_size=3).map(tuple))
    schemes = [n for n, s in SCHEMES.items() if s.dimensions in {None, len(kernel)}]
    shape = (draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 3, 4, 6, 12])), *kernel)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return weight, draw(st.sampled_from(schemes))


@settings(max_examples=60, deadline=None)
@given(weights())
def test_unfolding_undoes_folding(case):
    weight, scheme = case
    shape = tuple(weight.shape)
    matrix = fold(weight, scheme)
    rows, columns = folded_shape(shape, scheme)
    assert (matrix.shape[0], matrix.shape[1] * matrix.shape[2]) == (rows, columns)
    assert torch.equal(unfold(matrix, shape, scheme), weight)
    assert torch.equal(unfold(matrix.flatten(1), shape, scheme), weight)
    assert torch.equal(matrix.flatten().sort().values, weight.flatten().sort().values)


@settings(max_examples=60, deadline=None)
@given(weights(), st.data())
def test_slices_of_the_folded_are_the_folded_slices(case, data):
    weight, scheme = case
    k = data.draw(st.sampled_from(divisors(weight.shape[1])))
    step = weight.shape[1] // k
    matrix = fold(weight, scheme)
    for index in range(k):
        part = slice(index * step, (index + 1) * step)
        assert torch.equal(matrix[:, part], fold(weight[:, part], scheme))


def test_folding_by_hand():
    weight = torch.arange(24).reshape(2, 3, 2, 2)
    # scheme 1 keeps κ1 in the rows and κ2 in the columns
    row = fold(weight, 1)[1 * 2 + 1].flatten().tolist()  # f = 1, κ1 = 1
    assert row == [int(weight[1, c, 1, x]) for c in range(3) for x in range(2)]
    row = fold(weight, 2)[1 * 2 + 0].flatten().tolist()  # f = 1, κ2 = 0
    assert row == [int(weight[1, c, y, 0]) for c in range(3) for y in range(2)]
    row = fold(weight, 3)[1 * 4 + 2].flatten().tolist()  # f = 1, κ = (1, 0)
    assert row == [int(weight[1, c, 1, 0]) for c in range(3)]
    assert torch.equal(fold(weight, 0).flatten(1), weight.flatten(1))


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ((), (0,)),
        ((1,), (0,)),
        ((3,), (0, 3)),
        ((1, 1), (0,)),
        ((1, 3), (0, 2)),
        ((3, 1), (0, 1)),
        ((3, 3), (0, 1, 2, 3)),
        ((2, 5), (0, 1, 2, 3)),
        ((1, 1, 1), (0,)),
        ((3, 1, 3), (0, 3)),
    ],
)
def test_schemes_that_differ(kernel, expected):
    assert distinct_schemes(kernel) == expected


@settings(max_examples=150, deadline=None)
@given(weights(), st.integers(1, 5), st.data())
def test_pairs_and_factors(case, j, data):
    weight, scheme = case
    shape = tuple(weight.shape)
    k = data.draw(st.sampled_from(divisors(shape[1])))
    groups = data.draw(st.sampled_from(divisors(shape[0])))
    rows, columns = folded_shape(shape, scheme)
    left = torch.randn(groups * k, rows // groups, j, dtype=torch.float64)
    right = torch.randn(groups * k, j, columns // k, dtype=torch.float64)
    first, second = factors_to_weights(left, right, shape, scheme, groups)
    assert (tuple(first.shape), tuple(second.shape)) == pair_shapes(shape, scheme, k, j, groups)
    assert first.numel() + second.numel() == pair_params(shape, scheme, k, j, groups)
    again_left, again_right = weights_to_factors(first, second, k, groups)
    assert torch.equal(again_left, left)
    assert torch.equal(again_right, right)
    dense = multiply_back(first, second, shape, scheme, k, groups)
    assert dense.shape == weight.shape
    step, height = shape[1] // k, shape[0] // groups
    for index in range(groups * k):
        group, part = divmod(index, k)
        block = dense[group * height : (group + 1) * height, part * step : (part + 1) * step]
        own = fold(block, scheme).flatten(1)
        torch.testing.assert_close(own, left[index] @ right[index], rtol=1e-13, atol=1e-13)


@settings(max_examples=60, deadline=None)
@given(weights(), st.data())
def test_groups_are_decomposed_as_layers_of_their_own(case, data):
    """A grouped pair's weights are those of its groups' pairs, one after another."""
    weight, scheme = case
    shape = tuple(weight.shape)
    k = data.draw(st.sampled_from(divisors(shape[1])))
    groups = data.draw(st.sampled_from(divisors(shape[0])))
    alone = (shape[0] // groups, *shape[1:])
    j = full_rank(shape, scheme, k, groups)
    assert j == full_rank(alone, scheme, k)
    rows, columns = folded_shape(alone, scheme)
    left = torch.randn(groups * k, rows, j)
    right = torch.randn(groups * k, j, columns // k)
    parts = [
        factors_to_weights(own_left, own_right, alone, scheme)
        for own_left, own_right in zip(left.split(k), right.split(k), strict=True)
    ]
    first, second = factors_to_weights(left, right, shape, scheme, groups)
    assert torch.equal(first, torch.cat([part[0] for part in parts]))
    assert torch.equal(second, torch.cat([part[1] for part in parts]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000))
def test_divisors(number):
    assert divisors(number) == tuple(d for d in range(1, number + 1) if number % d == 0)
