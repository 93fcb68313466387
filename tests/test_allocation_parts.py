"""What the solvers are made of: dominance, bounds by prices, fixed point."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from allocation_cases import enumerated, least_sum, options, random_problem

from alds_cli.allocation.knapsack.instance import KnapsackInstance
from alds_cli.allocation.knapsack.lagrangian import relax
from alds_cli.allocation.knapsack.repair import best_of
from alds_cli.allocation.layer_options import by_cost, frontier, undominated


def survivors(values, costs, slack):
    """Rows that no other row is at least as good as in everything, of equals the first."""
    rows = list(enumerate(zip(values.tolist(), costs.tolist(), strict=True)))
    return {
        index
        for index, (value, cost) in rows
        if not any(
            other + slack <= value
            and all(a <= b for a, b in zip(taken, cost, strict=True))
            and (other < value or taken != cost or number < index)
            for number, (other, taken) in rows
            if number != index
        )
    }


@pytest.mark.parametrize("resources", [1, 2, 3])
@pytest.mark.parametrize("most", [4, 1000])
def test_undominated_rows_are_those_that_nothing_beats(resources, most):
    generator = np.random.default_rng(resources)
    for count in (1, 2, 10, 100, 600):
        values = generator.integers(0, most, count)
        costs = generator.integers(0, most, (count, resources))
        kept = undominated(values, costs)
        assert len(set(kept.tolist())) == len(kept)
        assert set(kept.tolist()) == survivors(values, costs, 0)


@pytest.mark.parametrize("resources", [1, 2])
def test_values_known_roughly_dominate_only_what_is_clearly_above(resources):
    generator = np.random.default_rng(resources)
    for _ in range(20):
        values = generator.integers(0, 30, 60)
        costs = generator.integers(0, 10, (60, resources))
        assert set(undominated(values, costs, 3).tolist()) == survivors(values, costs, 3)


@pytest.mark.parametrize("most", [5, 2**40, 2**62])
def test_costs_are_sorted_stably(most):
    costs = np.random.default_rng(0).integers(0, most, 500)
    assert by_cost(costs).tolist() == np.argsort(costs, kind="stable").tolist()


def test_frontier_rises_in_cost_and_falls_in_error():
    generator = np.random.default_rng(1)
    for _ in range(50):
        own = options(generator.integers(0, 20, 40), generator.choice([0.1, 0.2, 0.3, 0.4], 40))
        found = frontier(own)
        assert set(found.indices.tolist()) <= set(range(40))
        assert np.all(np.diff(found.costs) > 0)
        assert np.all(np.diff(found.errors) < 0)
        for cost, error in zip(own.costs[:, 0], own.errors, strict=True):
            assert np.any((found.costs <= cost) & (found.errors <= error))


@pytest.mark.parametrize("resources", [1, 2, 3])
def test_prices_bound_every_selection_and_solutions_keep_the_budgets(resources):
    generator = np.random.default_rng(resources)
    bounded = 0
    for _ in range(60):
        problem, budgets = random_problem(generator, resources)
        instance = KnapsackInstance.of(problem, budgets)
        relaxed = relax(instance)
        best = least_sum(problem, budgets)
        if best is None:
            continue
        assert relaxed.bound <= best
        bounded += relaxed.bound >= 0.5 * best
        assert np.all(relaxed.reduced >= 0)
        start = best_of(instance, relaxed.selections, relaxed.prices)
        assert start is None or (instance.fits(start) and instance.value(start) >= best)
    assert bounded > 20


def test_conflicting_budgets_are_refuted_by_prices_alone():
    problem = [options([[1, 9], [9, 1]], [0.1, 0.2])] * 5
    assert len(enumerated(problem, [19, 19])) == 0
    assert relax(KnapsackInstance.of(problem, [19, 19])).bound == np.inf


def test_fixed_point_rounds_down_and_knows_when_it_is_exact():
    problem = [options([2, 1], [0.25, 0.75]), options([2, 1], [0.0, 0.5])]
    instance = KnapsackInstance.of(problem, [4])
    numbers, shift, exact = instance.fixed_point()
    assert exact
    scaled = [Fraction(value) * 2**shift for value in instance.values.tolist()]
    assert numbers.tolist() == scaled
    tiny = [options([2, 1], [2.0**-80, 1.0])]
    numbers, shift, exact = KnapsackInstance.of(tiny, [4]).fixed_point()
    assert not exact
    assert numbers.min() == 0
    assert numbers.max() == 2**shift
