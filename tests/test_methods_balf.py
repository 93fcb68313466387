"""`balf`: its factors, objective and allocation against what the paper says, in NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from allocation_cases import cost_of, least_sum, random_problem
from test_methods_data import alone, in_batches, problem_of, write_digits
from torch import nn

from alds_cli import api
from alds_cli.allocation.lower_hull import lagrangian
from alds_cli.calibration.input_moments import SECOND_MOMENTS, input_tables
from alds_cli.errors import OptionError
from alds_cli.methods import METHODS, FactorTask
from alds_cli.numerics.fold import multiply_back, pair_params
from alds_cli.records import Choice
from alds_cli.surgery import find_layers

BALF = METHODS["balf"]


def moments_of(network, specs, inputs):
    return SECOND_MOMENTS.gather(network, specs, in_batches(inputs))


def patches_of(kind, layer, inputs):
    """The inputs of every output, (g, positions, n)."""
    if kind == "linear":
        return inputs.numpy()[None]
    rows = nn.functional.unfold(inputs, 3, padding=layer.padding, stride=layer.stride)
    rows = rows.movedim(1, 2).reshape(-1, layer.groups, rows.shape[1] // layer.groups)
    return rows.movedim(1, 0).numpy()


def whitened(weight, patches, j):
    """M · SVD_j(M⁺ W), (f, n), for M = V Λ^-½ of the patches (positions, n); and all σ."""
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    seen = values > 1e-12 * values.max()
    whitening = vectors[:, seen] / np.sqrt(values[seen])
    inverse = (vectors[:, seen] * np.sqrt(values[seen])).T
    u, sigma, v = np.linalg.svd(inverse @ weight.T, full_matrices=False)
    return (whitening @ (u[:, :j] * sigma[:j]) @ v[:j]).T, sigma


@pytest.mark.parametrize("kind", ["linear", "conv", "grouped"])
@pytest.mark.parametrize("dead", [False, True])
def test_factors_are_those_of_the_whitened_weight(kind, dead):
    network, specs, inputs = alone("linear" if kind == "linear" else "conv")
    if kind == "grouped":
        network.layer = nn.Conv2d(4, 6, 3, groups=2, padding=1).double()
        specs = find_layers(network)
    if dead:
        inputs[:, 1] = 0
    layer, spec = network.layer, specs["layer"]
    found = moments_of(network, specs, inputs)["layer"]
    weight = layer.weight.detach()
    statistics = {SECOND_MOMENTS.name: found}
    factors = BALF.factorisation(
        FactorTask(spec, Choice(0, 1, 2), weight, layer.bias, 0, {}, statistics)
    )
    assert factors.constant is None  # neither the bias nor a batch normalisation changes
    pair = multiply_back(*factors.tensors, tuple(weight.shape), 0, 1, spec.groups)
    own, pair = (
        tensor.reshape(spec.groups, len(weight) // spec.groups, -1).numpy()
        for tensor in (weight, pair)
    )
    for group, patches in enumerate(patches_of(kind, layer, inputs)):
        expected, _ = whitened(own[group], patches, 2)
        got = pair[group]
        np.testing.assert_allclose(patches @ got.T, patches @ expected.T, rtol=0, atol=2e-6)
        if not dead:
            np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def small_network(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 4, 10),
    )
    return network.double().eval(), torch.randn(30, 3, 6, 6, dtype=torch.float64) + 0.3


def bisected(kept, costs, budget):
    """The ranks that the least feasible price gives, by bisection; 0 keeps the layer.

    `kept` holds the share of the energy by rank, `costs` what ranks cost; the last is the layer.
    """

    def taken(price):
        ranks = [int(np.argmax(own - price * cost)) for own, cost in zip(kept, costs, strict=True)]
        return ranks, sum(cost[at] for cost, at in zip(costs, ranks, strict=True))

    low, high = 0.0, 1.0
    while taken(high)[1] > budget:
        high *= 2
    for _ in range(200):
        price = (low + high) / 2
        low, high = (price, high) if taken(price)[1] > budget else (low, price)
    return [(at + 1) % len(cost) for at, cost in zip(taken(high)[0], costs, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_ranks_are_those_of_a_bisection_over_the_price(seed):
    network, inputs = small_network(seed)
    specs = find_layers(network)
    known = input_tables(moments_of(network, specs, inputs))
    kept, costs = [], []
    for name, spec in specs.items():
        layer = network.get_submodule(name)
        kind = "linear" if isinstance(layer, nn.Linear) else "conv"
        (patches,) = patches_of(kind, layer, network[: int(name)](inputs).detach())
        weight = layer.weight.detach().flatten(1).numpy()
        energy = whitened(weight, patches, 1)[1] ** 2
        prices = [pair_params(spec.weight_shape, 0, 1, j) for j in range(1, len(energy) + 1)]
        worth = [j for j, price in enumerate(prices) if price < spec.weight_params]
        kept.append(np.append((energy.cumsum() / energy.sum())[worth], 1.0))
        costs.append(np.append(np.array(prices)[worth], spec.weight_params))
    whole = sum(spec.weight_params for spec in specs.values())
    asked = {"solver": "lagrangian", "bound": "frobenius"}
    problem = problem_of(network, {SECOND_MOMENTS.name: known}, **asked)
    for share in (0.3, 0.5, 0.8, 0.95):
        budget = int(share * whole)
        plan = BALF.plan(replace(problem, budgets=[budget]))
        expected = bisected(kept, costs, budget)
        assert [choice.j if choice else 0 for choice in plan.choices.values()] == expected
        lost = sum(1 - own[at - 1] for own, at in zip(kept, expected, strict=True))
        assert plan.objective == pytest.approx(lost, rel=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_the_allocation_is_the_last_within_the_budget_on_the_lower_hull_of_all_plans(seed):
    generator = np.random.default_rng(seed)
    layers, budgets = random_problem(generator, tied=seed % 2 == 0)
    found = lagrangian(layers, budgets[0])
    spent = int(cost_of(layers, found.chosen)[0])
    assert spent <= budgets[0]
    grid = np.indices([len(layer.errors) for layer in layers]).reshape(len(layers), -1)
    pairs = list(zip(layers, grid, strict=True))
    costs = sum(layer.costs[at, 0] for layer, at in pairs)
    errors = sum(layer.errors[at] for layer, at in pairs)
    # No plan that costs as little loses less.
    assert found.objective == pytest.approx(errors[costs <= spent].min(), rel=1e-12)
    # No chord between two plans runs below it.
    cheap, dear = costs < spent, costs > spent
    rises = (errors[cheap] - found.objective) / (spent - costs[cheap])
    falls = (found.objective - errors[dear]) / (costs[dear] - spent)
    assert rises.min(initial=np.inf) >= falls.max(initial=0.0) * (1 - 1e-9)
    # All that is cheaper than the budget and dearer than this lies above the hull, or on an edge.
    between = dear & (costs <= budgets[0])
    beyond = costs > budgets[0]
    if between.any():
        edge = ((found.objective - errors[beyond]) / (costs[beyond] - spent)).max(initial=0.0)
        reached = (found.objective - errors[between]) / (costs[between] - spent)
        assert reached.max() <= edge * (1 + 1e-9)
    assert found.lower_bound <= least_sum(layers, budgets) <= found.objective + 1e-12


def test_macs_are_budgeted_by_the_same_solver_and_knapsack_loses_no_more(model, tmp_path):
    data = write_digits(tmp_path / "digits.safetensors")
    asked = {"method": "balf", "data": data, "samples": 24, "target": "macs", "ratio": "0.4"}
    own = api.compress(model, output=tmp_path / "small.pt", **asked)
    assert own.plan.solver == "lagrangian"
    assert own.report.macs_after <= 0.6 * own.report.macs_before
    assert {choice.k for choice in own.plan.decomposed.values()} == {1}
    best = api.compress(model, solver="knapsack", dry_run=True, **asked).plan
    assert own.plan.objective_bound <= best.objective <= own.plan.objective


def test_it_refuses_what_is_not_in_the_paper(model, tmp_path):
    data = write_digits(tmp_path / "digits.safetensors")
    asked = {"method": "balf", "data": data, "samples": 24, "ratio": "0.4", "dry_run": True}
    with pytest.raises(OptionError, match="not sum"):
        api.compress(model, bound="sum", **asked)
    with pytest.raises(OptionError, match="unknown solver 'exact'"):
        api.compress(model, solver="exact", **asked)
    with pytest.raises(OptionError, match="spends one budget") as caught:
        api.compress(model, max_macs="1M", **asked)
    assert caught.value.tip == "--solver knapsack"
    assert api.compress(model, max_macs="1M", solver="knapsack", **asked).plan.decomposed
    assert "one slice" in BALF.factorisation.complaint(Choice(0, 2, 1))
