"""The least sum of errors and the gap certified for it, against enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from allocation_cases import cost_of, errors_of, least_errors, least_sum, options, random_problem

from alds_cli.allocation import InfeasibleError, knapsack
from alds_cli.allocation.knapsack import dynamic_programming


def check(problem, budgets):
    """Hold a solution against the enumerated one; how far the bounds are apart."""
    best = least_sum(problem, budgets)
    if best is None:
        with pytest.raises(InfeasibleError):
            knapsack(problem, budgets)
        return 0.0
    found = knapsack(problem, budgets)
    assert np.all(cost_of(problem, found.chosen) <= budgets)
    assert found.objective == math.fsum(errors_of(problem, found.chosen))
    assert found.lower_bound <= best <= found.objective
    return found.gap


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("resources", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_small_problems_are_solved_and_proven(seed, resources, tied):
    generator = np.random.default_rng(seed)
    for _ in range((200, 60, 40)[resources - 1]):
        assert check(*random_problem(generator, resources, tied=tied)) == 0


@pytest.mark.parametrize("resources", [1, 2])
def test_what_is_given_up_is_part_of_the_gap(monkeypatch, resources):
    monkeypatch.setattr(dynamic_programming, "_ONE_BUDGET", 2)
    monkeypatch.setattr(dynamic_programming, "_SEVERAL", 2)
    generator = np.random.default_rng(resources)
    gaps = []
    for _ in range(300 // resources**2):
        problem, budgets = random_problem(generator, resources, layers=5)
        if least_errors(problem, budgets) is not None:
            try:
                gaps.append(check(problem, budgets))
            except InfeasibleError as error:
                assert "was found" in str(error)  # noqa: PT017 - no claim that there is none
    assert any(gap > 0 for gap in gaps)


@pytest.mark.parametrize("tied", [False, True])
def test_budget_for_the_cheapest_options_alone_gives_these(tied):
    generator = np.random.default_rng(2)
    for _ in range(100):
        problem, _ = random_problem(generator, tied=tied)
        least = sum(int(own.costs.min()) for own in problem)
        assert check(problem, [least]) == 0
        with pytest.raises(InfeasibleError, match="cheapest options exceed"):
            knapsack(problem, [least - 1])


def test_single_layer_takes_its_best_option_within_the_budget():
    layer = options([10, 4, 6, 8], [0.0, 0.5, 0.3, 0.4])
    assert [knapsack([layer], [budget]).chosen for budget in (10, 9, 5)] == [[0], [2], [1]]


def test_no_layers_cost_nothing():
    assert knapsack([], [0]).objective == 0


def test_layers_without_error_have_none():
    layers = [options([3, 1], [0.0, 0.0], [(0, 0, 0), (0, 1, 1)])] * 3
    found = knapsack(layers, [4])
    assert found.objective == found.lower_bound == 0


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1.0, 1e20])
def test_scale_of_the_errors_does_not_matter(scale):
    generator = np.random.default_rng(3)
    for _ in range(30):
        problem, budgets = random_problem(generator)
        scaled = [options(own.costs, own.errors * scale, own.choices) for own in problem]
        assert check(scaled, budgets) == 0


def test_sums_that_differ_in_the_last_digit_are_told_apart():
    """Rounding the errors of these to a common grid makes 1 + tiny no larger than 1."""
    tiny = 2.0**-70
    layers = [
        options([1, 2, 2], [1.0 + 2**-52, tiny, 3 * tiny]),
        options([1, 2, 2], [1.0 + 2**-52, 2 * tiny, tiny]),
    ]
    found = knapsack(layers, [4])
    assert found.chosen == [1, 2]
    assert found.objective == found.lower_bound == 2 * tiny


def test_large_problem_is_solved_to_a_small_gap():
    generator = np.random.default_rng(4)
    layers = []
    for _ in range(60):
        costs = np.sort(generator.choice(100_000, 200, replace=False))
        layers.append(options(costs, np.sort(generator.random(200))[::-1] ** 2))
    budget = int(sum(own.costs.max() for own in layers) * 0.3)
    found = knapsack(layers, [budget])
    assert cost_of(layers, found.chosen) <= [budget]
    assert found.gap <= 1e-3 * found.objective
    closer = knapsack(layers, [budget + 1000])
    assert closer.lower_bound <= found.objective
