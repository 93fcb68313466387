"""The solvers that minimise the largest error, against enumeration of every combination."""

from __future__ import annotations

import numpy as np
import pytest
from allocation_cases import TIED, cost_of, errors_of, least_errors, options, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from alds_cli.allocation import InfeasibleError, alternating, minimax


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_minimax_is_the_lexicographic_minimum(seed, tied):
    generator = np.random.default_rng(seed)
    for _ in range(100):
        problem, budgets = random_problem(generator, tied=tied)
        found = minimax(problem, budgets)
        assert cost_of(problem, found.chosen) <= budgets
        assert errors_of(problem, found.chosen) == least_errors(problem, budgets)
        assert found.objective == found.lower_bound == errors_of(problem, found.chosen)[0]


@pytest.mark.parametrize("seed", range(4))
def test_minimax_is_the_lexicographic_minimum_where_many_layers_tie(seed):
    generator = np.random.default_rng(seed)
    for _ in range(25):
        layers = []
        for _ in range(7):
            costs = generator.integers(1, 8, 3)
            layers.append(options([costs[0], *costs[1:] + 8], [0.3, *generator.choice(TIED, 2)]))
        layers[1:3] = [layers[0]] * 2
        least = sum(int(own.costs.min()) for own in layers)
        budget = int(generator.integers(least, least + 40))
        found = minimax(layers, [budget])
        assert cost_of(layers, found.chosen) <= [budget]
        assert errors_of(layers, found.chosen) == least_errors(layers, [budget])


@st.composite
def problems(draw):
    """Up to four layers with options in any order, as Hypothesis thinks them up."""
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        rows = draw(
            st.lists(
                st.tuples(st.integers(0, 9), st.sampled_from([0.0, 0.1, 0.5, 0.7])),
                min_size=1,
                max_size=6,
            )
        )
        layers.append(options(*zip(*rows, strict=True)))
    return layers, [draw(st.integers(0, 36))]


@settings(max_examples=500, deadline=None)
@given(problems())
def test_minimax_needs_no_order_nor_an_option_without_error(case):
    problem, budgets = case
    best = least_errors(problem, budgets)
    if best is None:
        with pytest.raises(InfeasibleError):
            minimax(problem, budgets)
    else:
        assert errors_of(problem, minimax(problem, budgets).chosen) == best


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_budget_for_the_cheapest_options_alone_gives_these(seed, tied):
    generator = np.random.default_rng(seed)
    for _ in range(50):
        problem, _ = random_problem(generator, tied=tied)
        least = sum(int(own.costs.min()) for own in problem)
        found = minimax(problem, [least])
        assert cost_of(problem, found.chosen) == [least]
        assert errors_of(problem, found.chosen) == least_errors(problem, [least])
        with pytest.raises(InfeasibleError, match="cheapest options exceed"):
            minimax(problem, [least - 1])


def test_single_layer_takes_its_best_option_within_the_budget():
    layer = options([10, 4, 6, 8], [0.0, 0.5, 0.3, 0.4])
    assert minimax([layer], [9]).chosen == [2]
    assert minimax([layer], [10]).chosen == [0]
    assert minimax([layer], [5]).chosen == [1]


def test_of_options_alike_the_first_by_scheme_slices_and_rank_is_taken():
    layer = options([4, 4, 4], [0.5, 0.5, 0.5], [(1, 1, 1), (0, 2, 2), (0, 2, 1)])
    assert minimax([layer], [4]).chosen == [2]
    assert alternating([layer], [4]).chosen == [2]


def test_costs_of_any_size_are_compared_exactly():
    layer = options([2**61 + 1, 2**61, 2**61 + 2], [0.1, 0.2, 0.0])
    assert minimax([layer], [2**61 + 1]).chosen == [0]
    assert minimax([layer], [2**61]).chosen == [1]


def test_many_steps_give_the_level_that_one_at_a_time_would():
    generator = np.random.default_rng(0)
    layers = [
        options(np.cumsum(generator.integers(1, 9, 400)), np.sort(generator.random(400))[::-1])
        for _ in range(40)
    ]
    budget = sum(int(own.costs.max()) for own in layers) // 2
    found = minimax(layers, [budget])

    def cost(level, *, strictly=False):
        within = [own.errors < level if strictly else own.errors <= level for own in layers]
        return sum(int(own.costs[at, 0].min()) for own, at in zip(layers, within, strict=True))

    assert cost(found.objective) <= budget < cost(found.objective, strictly=True)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.integers(0, 5))
def test_alternating_keeps_the_budget_and_never_beats_the_optimum(number, tied, seed):
    problem, budgets = random_problem(np.random.default_rng(number), tied=tied)
    best = minimax(problem, budgets).objective
    try:
        found = alternating(problem, budgets, seed=seed)
    except InfeasibleError:
        return  # no start has a feasible k; the exact solver mixes them
    assert cost_of(problem, found.chosen) <= budgets
    assert found.objective == errors_of(problem, found.chosen)[0] >= best
    assert found.lower_bound == 0


def test_alternating_is_repeatable_and_improves_on_its_starts():
    generator = np.random.default_rng(0)
    layers = []
    for _ in range(6):
        curves = [(k, np.sort(generator.random(20))[::-1], 3 + 2 * k) for k in (1, 2, 4, 8)]
        rows = [(200, 0.0, (0, 0, 0))] + [
            (unit * (j + 1), float(error), (0, k, j + 1))
            for k, errors, unit in curves
            for j, error in enumerate(errors)
        ]
        layers.append(options(*zip(*sorted(rows), strict=True)))
    one = alternating(layers, [300], seed=3, starts=1)
    many = alternating(layers, [300], seed=3)
    assert many == alternating(layers, [300], seed=3)
    assert many.objective <= one.objective


def test_alternating_spends_one_budget():
    with pytest.raises(ValueError, match="spends one budget"):
        alternating([options([[1, 1]], [0.0])], [1, 1])


def test_alternating_tells_that_a_budget_is_too_small():
    with pytest.raises(InfeasibleError, match="cheapest options exceed"):
        alternating([options([10, 4], [0.0, 0.5], [(0, 0, 0), (0, 1, 1)])], [3])


@pytest.mark.parametrize("solver", [minimax, alternating])
def test_no_layers_cost_nothing(solver):
    assert solver([], [0]).chosen == []


@pytest.mark.parametrize("solver", [minimax, alternating])
def test_layer_that_can_only_be_kept_is_kept(solver):
    layer = options([10], [0.0], [(0, 0, 0)])
    assert solver([layer], [10]).chosen == [0]
    assert layer.choice(0) is None
