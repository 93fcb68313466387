"""The largest error within several budgets at once, against enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from allocation_cases import cost_of, errors_of, least_errors, options, random_problem

from alds_cli.allocation import InfeasibleError, minimax


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("resources", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_bounds_enclose_the_optimum_and_all_budgets_hold(seed, resources, tied):
    generator = np.random.default_rng(seed)
    infeasible = 0
    for _ in range(75):
        problem, budgets = random_problem(generator, resources, tied=tied)
        best = least_errors(problem, budgets)
        if best is None:
            infeasible += 1
            with pytest.raises(InfeasibleError):
                minimax(problem, budgets)
            continue
        found = minimax(problem, budgets)
        assert np.all(cost_of(problem, found.chosen) <= budgets)
        assert found.objective == errors_of(problem, found.chosen)[0]
        assert found.lower_bound <= best[0] <= found.objective
        assert found.gap == 0  # nothing this small is left open
    assert 0 < infeasible < 75


def test_budget_that_never_binds_changes_nothing():
    generator = np.random.default_rng(0)
    for _ in range(50):
        problem, budgets = random_problem(generator, 2)
        loose = int(sum(own.costs[:, 1].max() for own in problem))
        alone = [options(own.costs[:, :1], own.errors, own.choices) for own in problem]
        assert minimax(problem, [budgets[0], loose]).objective == pytest.approx(
            minimax(alone, budgets[:1]).objective, rel=0, abs=0
        )


def test_what_is_left_goes_to_the_worst_layer():
    layer = options([[1, 9], [4, 5], [9, 1]], [0.9, 0.5, 0.1])
    fixed = options([[1, 1]], [0.9])
    found = minimax([layer, fixed], [10, 10])
    assert found.objective == 0.9
    assert found.chosen == [2, 0]


def test_layer_that_is_slower_decomposed_is_kept_where_time_is_short():
    parameters_and_time = [[100, 5], [50, 9], [20, 4]]
    layer = options(parameters_and_time, [0.0, 0.2, 0.6], [(0, 0, 0), (0, 1, 5), (0, 1, 2)])
    assert minimax([layer], [60, 9]).chosen == [1]
    assert minimax([layer], [60, 8]).chosen == [2]
    assert minimax([layer], [100, 8]).chosen == [0]


def test_budgets_that_exclude_each_other_are_refused():
    layers = [options([[1, 9], [9, 1]], [0.1, 0.2])] * 3
    with pytest.raises(InfeasibleError, match="cheapest options exceed"):
        minimax(layers, [11, 11])


def test_many_layers_leave_little_open():
    generator = np.random.default_rng(1)
    layers = []
    for _ in range(30):
        parameters = np.sort(generator.integers(1, 10_000, 60))
        times = (parameters * generator.uniform(0.3, 1.5, 60)).astype(np.int64)
        layers.append(
            options(np.stack([parameters, times], 1), np.sort(generator.random(60))[::-1])
        )
    budgets = [int(sum(own.costs[:, at].max() for own in layers) * 0.4) for at in (0, 1)]
    found = minimax(layers, budgets)
    assert np.all(cost_of(layers, found.chosen) <= budgets)
    assert found.lower_bound <= found.objective <= 1.01 * found.lower_bound
