"""The optimisers against enumeration of every combination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.allocation import LayerOptions, alternating, minimax

ANY_LEVEL = st.floats(0.001, 1.0)


@st.composite
def layers_and_budget(draw, levels=ANY_LEVEL):
    """Up to four layers with a few options each, and a budget between least and most."""
    layers = []
    for index in range(draw(st.integers(1, 4))):
        keep = draw(st.integers(2, 30))
        costs, errors, choices = [keep], [0.0], [(0, 0, 0)]
        for k in range(1, draw(st.integers(1, 3)) + 1):
            ranks = draw(st.integers(0, 3))
            falling = sorted(draw(st.lists(levels, min_size=ranks, max_size=ranks)), reverse=True)
            unit = draw(st.integers(1, 6))
            for j, error in enumerate(falling, start=1):
                if unit * j < keep:
                    costs.append(unit * j)
                    errors.append(error)
                    choices.append((0, k, j))
        layers.append(
            LayerOptions(f"l{index}", np.array(costs), np.array(errors), np.array(choices))
        )
    least = sum(int(options.costs.min()) for options in layers)
    most = sum(int(options.costs[0]) for options in layers)
    return layers, draw(st.integers(least, most))


def combinations(layers, budget):
    """Every combination of options within the budget, as (errors worst first, indices)."""
    for picks in itertools.product(*(range(len(options.costs)) for options in layers)):
        cost = sum(int(o.costs[i]) for o, i in zip(layers, picks, strict=True))
        if cost <= budget:
            yield errors_of(layers, picks), picks


def errors_of(layers, picks):
    return sorted((float(o.errors[i]) for o, i in zip(layers, picks, strict=True)), reverse=True)


def cost_of(layers, picks):
    return sum(int(o.costs[i]) for o, i in zip(layers, picks, strict=True))


@settings(max_examples=1500, deadline=None)
@given(layers_and_budget())
def test_minimax_is_the_lexicographic_minimum(case):
    layers, budget = case
    picks = minimax(layers, budget)
    assert cost_of(layers, picks) <= budget
    assert errors_of(layers, picks) == min(combinations(layers, budget))[0]


@settings(max_examples=1500, deadline=None)
@given(layers_and_budget(levels=st.sampled_from([0.1, 0.2, 0.3])))
def test_minimax_is_the_lexicographic_minimum_when_errors_tie(case):
    layers, budget = case
    picks = minimax(layers, budget)
    assert cost_of(layers, picks) <= budget
    assert errors_of(layers, picks) == min(combinations(layers, budget))[0]


@settings(max_examples=300, deadline=None)
@given(layers_and_budget(), st.integers(0, 5))
def test_alternating_keeps_the_budget_and_never_beats_the_optimum(case, seed):
    layers, budget = case
    best = errors_of(layers, minimax(layers, budget))[0]
    try:
        picks = alternating(layers, budget, seed=seed)
    except ValueError:
        return  # no start has a feasible k; the exact solver mixes them
    assert cost_of(layers, picks) <= budget
    assert errors_of(layers, picks)[0] >= best


def test_alternating_is_repeatable_and_improves_on_its_starts():
    generator = np.random.default_rng(0)
    layers = []
    for index in range(6):
        curves = [(k, np.sort(generator.random(20))[::-1], 3 + 2 * k) for k in (1, 2, 4, 8)]
        rows = [(0, 0.0, (0, 0, 0))]
        rows = [(200, 0.0, (0, 0, 0))] + [
            (unit * (j + 1), float(error), (0, k, j + 1))
            for k, errors, unit in curves
            for j, error in enumerate(errors)
        ]
        costs, errors, choices = zip(*rows, strict=True)
        layers.append(
            LayerOptions(f"l{index}", np.array(costs), np.array(errors), np.array(choices))
        )
    one = alternating(layers, 300, seed=3, starts=1)
    many = alternating(layers, 300, seed=3)
    assert many == alternating(layers, 300, seed=3)
    assert errors_of(layers, many)[0] <= errors_of(layers, one)[0]


@pytest.mark.parametrize("solver", [minimax, alternating])
def test_infeasible_budget_is_an_error(solver):
    options = LayerOptions(
        "l", np.array([10, 4]), np.array([0.0, 0.5]), np.array([(0, 0, 0), (0, 1, 1)])
    )
    with pytest.raises(ValueError, match="cheapest options exceed"):
        solver([options], 3)


def test_no_layers_cost_nothing():
    assert minimax([], 0) == []


def test_layer_that_can_only_be_kept_is_kept():
    options = LayerOptions("l", np.array([10]), np.array([0.0]), np.array([(0, 0, 0)]))
    assert minimax([options], 10) == [0]
    assert alternating([options], 10) == [0]
    assert options.choice(0) is None
