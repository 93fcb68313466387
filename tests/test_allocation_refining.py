"""Solving with true errors that are asked for one by one, against knowing them all."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from allocation_cases import cost_of, errors_of, least_errors, least_sum, options, random_problem

from alds_cli.allocation import (
    InfeasibleError,
    knapsack,
    minimax,
    refined,
)


class Oracle:
    """Knows the true errors and counts who asks for them."""

    def __init__(self, layers):
        self.layers = layers
        self.asked = []

    def __call__(self, requests):
        self.asked += requests
        return [float(self.layers[position].errors[index]) for position, index in requests]


def hidden(generator, layers):
    """Lower bounds in place of most errors, and which errors are true all the same."""
    bounds, known = [], []
    for own in layers:
        factors = np.where(own.choices[:, 1] == 1, 1.0, generator.uniform(0.3, 1.0, len(own.costs)))
        bounds.append(replace(own, errors=own.errors * factors))
        known.append(factors == 1.0)
    return bounds, known


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("solve", [minimax, knapsack])
@pytest.mark.parametrize("resources", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_result_is_that_of_knowing_all_errors(solve, resources, tied):
    generator = np.random.default_rng(resources + 2 * tied)
    for _ in range(120 // resources**2):
        layers, budgets = random_problem(generator, resources, tied=tied)
        best = least_errors(layers, budgets)
        oracle = Oracle(layers)
        bounds, known = hidden(generator, layers)
        if best is None:
            with pytest.raises(InfeasibleError):
                refined(solve, bounds, known, budgets, oracle)
            assert oracle.asked == []
            continue
        guesses = [own.errors * generator.uniform(0.5, 1.5) for own in layers]
        found, learnt = refined(
            solve, bounds, known, budgets, oracle, guesses if generator.random() < 0.5 else None
        )
        true = errors_of(layers, found.chosen)
        assert errors_of(learnt, found.chosen) == true
        assert np.all(cost_of(layers, found.chosen) <= budgets)
        if solve is knapsack:
            assert found.objective == math.fsum(true) == least_sum(layers, budgets)
        else:
            assert found.objective == true[0] == best[0]
            assert resources > 1 or true == best


@pytest.mark.parametrize("solve", [minimax, knapsack])
def test_nothing_is_asked_twice_nor_what_is_known(solve):
    generator = np.random.default_rng(5)
    for _ in range(100):
        layers, budgets = random_problem(generator)
        oracle = Oracle(layers)
        bounds, known = hidden(generator, layers)
        refined(solve, bounds, known, budgets, oracle)
        assert len(set(oracle.asked)) == len(oracle.asked)
        assert not any(known[position][index] for position, index in oracle.asked)


def test_what_was_learnt_stays_below_the_true_errors():
    generator = np.random.default_rng(6)
    for _ in range(100):
        layers, budgets = random_problem(generator)
        bounds, known = hidden(generator, layers)
        _, learnt = refined(minimax, bounds, known, budgets, Oracle(layers))
        for before, after, true in zip(bounds, learnt, layers, strict=True):
            assert np.all(before.errors <= after.errors)
            assert np.all(after.errors <= true.errors)


def test_what_is_given_is_left_as_it_was():
    generator = np.random.default_rng(7)
    layers, budgets = random_problem(generator)
    bounds, known = hidden(generator, layers)
    copies = [(own.errors.copy(), mask.copy()) for own, mask in zip(bounds, known, strict=True)]
    refined(minimax, bounds, known, budgets, Oracle(layers))
    for own, mask, (errors, before) in zip(bounds, known, copies, strict=True):
        assert np.array_equal(own.errors, errors)
        assert np.array_equal(mask, before)


def test_few_errors_of_long_curves_are_asked_for():
    generator = np.random.default_rng(8)
    layers, bounds, known = [], [], []
    for _ in range(10):
        rows = [(10_000, 0.0, 0.0, (0, 0, 0))]
        for k in (1, 2, 4, 8):
            errors = np.sort(generator.random(100))[::-1] * k**-0.2
            rows += [
                ((20 + 10 * k) * j, float(e), float(e) * k**-0.3, (0, k, j))
                for j, e in enumerate(errors, start=1)
            ]
        costs, true, lower, choices = (np.array(column) for column in zip(*rows, strict=True))
        layers.append(options(costs, true, choices))
        bounds.append(options(costs, lower, choices))
        known.append(choices[:, 1] <= 1)
    oracle = Oracle(layers)
    found, _ = refined(minimax, bounds, known, [25_000], oracle)
    assert found.objective == minimax(layers, [25_000]).objective
    assert len(oracle.asked) < 0.1 * sum(int((~mask).sum()) for mask in known)
