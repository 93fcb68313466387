"""PCA of responses: pairs against the paper's equations, ranks against a plain greedy search."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from allocation_cases import cost_of, options, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import digits_network
from torch import nn

from alds_cli import api
from alds_cli.allocation import InfeasibleError, Problem
from alds_cli.calibration import gather_responses, response_energies
from alds_cli.compression.factorise import PairJob, add_constant, require_makeable
from alds_cli.datasets import Batches, TensorImages, open_dataset
from alds_cli.errors import OptionError, PlanError, RatioUnreachableError
from alds_cli.evaluation import measure_quality
from alds_cli.methods import METHODS, FactorTask, pca
from alds_cli.numerics.fold import full_rank
from alds_cli.profiling import error_tables
from alds_cli.records import Choice, Plan, Preprocessing
from alds_cli.runtime.pool import run_jobs
from alds_cli.surgery import (
    find_layers,
    install_pair,
    layer_weight,
    weight_at,
)
from alds_cli.tracing.trace import count_macs, count_parameters

DOUBLE = torch.float64

LAYERS = {
    "linear": (lambda: nn.Linear(7, 9), (7,)),
    "linear without bias": (lambda: nn.Linear(11, 6, bias=False), (11,)),
    "sequences": (lambda: nn.Linear(7, 9), (4, 7)),
    "conv": (lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 6, 6)),
    "conv without bias": (lambda: nn.Conv2d(3, 8, 3, bias=False), (3, 6, 6)),
    "fewer inputs than outputs": (lambda: nn.Conv1d(2, 9, 2), (2, 8)),
    "grouped": (lambda: nn.Conv2d(8, 12, (3, 1), groups=4, padding=(1, 0)), (8, 5, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 3, 3)),
    "transposed and grouped": (lambda: nn.ConvTranspose1d(6, 8, 3, groups=2), (6, 5)),
}


def alone(kind, seed=0):
    """A network of one layer, its spec, and inputs of unlike spread that are not centred."""
    torch.manual_seed(seed)
    make, shape = LAYERS[kind]
    network = nn.Sequential()
    network.add_module("layer", make())
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    spread = torch.linspace(0.2, 2, torch.Size(shape).numel(), dtype=DOUBLE).view(shape)
    inputs = (torch.randn(60, *shape, dtype=DOUBLE) + 0.7) * spread
    return network, find_layers(network)["layer"], inputs


def batched(inputs, size=16):
    return [(part, torch.zeros(len(part))) for part in inputs.split(size)]


def pair_of(network, spec, responses, j):
    """A copy of the network with the layer replaced by its pair, and the job that made it."""
    norm = float(torch.linalg.matrix_norm(weight_at(network, spec.name).flatten(1), 2))
    job = PairJob(
        task_of(network, spec, responses, Choice(0, 1, j)), pca.PrincipalComponents(), norm
    )
    run_jobs([job])
    changed = copy.deepcopy(network)
    install_pair(changed, spec.name, job.task.choice, job.factors.tensors)
    if job.factors.constant is not None:
        assert job.factors.absorber == responses.absorber
        add_constant(changed, spec.name, responses.absorber, job.factors.constant)
    return changed, job


def task_of(network, spec, responses, choice):
    layer = network.get_submodule(spec.name)
    return FactorTask(
        spec, choice, layer_weight(layer), layer.bias, statistics={"responses": responses}
    )


def as_rows(output, spec):
    """Responses as (n, f)."""
    return output.detach().movedim(-1 - len(spec.kernel), -1).flatten(0, -2).numpy()


def projected(y, j, groups, *, centred):
    """The paper's approximation of responses (n, f), group by group."""
    parts = []
    for own in np.split(y, groups, axis=1):
        mean = own.mean(0) if centred else np.zeros(own.shape[1])
        _, _, components = np.linalg.svd(own - mean, full_matrices=True)
        basis = components[:j].T
        parts.append((own - mean) @ basis @ basis.T + mean)
    return np.concatenate(parts, axis=1)


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_pair_gives_what_the_paper_says(kind):
    network, spec, inputs = alone(kind)
    responses = gather_responses(network, {spec.name: spec}, batched(inputs))[spec.name]
    y = as_rows(network(inputs), spec)
    full = full_rank(spec.weight_shape, 0, 1, spec.groups)
    for j in range(1, full + 1):
        changed, job = pair_of(network, spec, responses, j)
        expected = projected(y, j, spec.groups, centred=spec.bias)
        found = as_rows(changed(inputs), spec)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(y).max())
        assert (job.factors.constant is not None) == spec.bias
        if j == full:
            np.testing.assert_allclose(found, y, rtol=0, atol=1e-8 * np.abs(y).max())
            assert job.error < 1e-10


@pytest.mark.parametrize("kind", LAYERS)
def test_the_error_is_that_of_the_weights(kind):
    network, spec, inputs = alone(kind)
    responses = gather_responses(network, {spec.name: spec}, batched(inputs))[spec.name]
    changed, job = pair_of(network, spec, responses, 1)
    first, second = (layer_weight(half).flatten(1) for half in changed.layer)
    # Of a block diagonal matrix: the largest of its blocks' norms.
    blocks = zip(
        weight_at(network, "layer").flatten(1).chunk(spec.groups),
        second.chunk(spec.groups),
        first.chunk(spec.groups),
        strict=True,
    )
    rest = [torch.linalg.matrix_norm(own - left @ right, 2) for own, left, right in blocks]
    expected = max(rest) / job.norm
    assert job.error == pytest.approx(float(expected), rel=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(1e-3, 2))
def test_no_affine_map_of_that_rank_comes_closer(seed, j, size):
    network, spec, inputs = alone("linear", seed=3)
    responses = gather_responses(network, {spec.name: spec}, batched(inputs))[spec.name]
    y = as_rows(network(inputs), spec)
    changed, _ = pair_of(network, spec, responses, j)
    least = np.square(as_rows(changed(inputs), spec) - y).sum()
    generator = np.random.default_rng(seed)
    # A map near the best one, and the constant that suits it best.
    basis = np.linalg.svd(y - y.mean(0))[2][:j].T
    left = basis + size * generator.standard_normal(basis.shape)
    right = basis.T + size * generator.standard_normal(basis.T.shape)
    mapped = y @ (left @ right).T
    other = np.square(mapped - mapped.mean(0) + y.mean(0) - y).sum()
    assert least <= other * (1 + 1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_halves_are_balanced_and_repeatable(kind, threads):
    network, spec, inputs = alone(kind)
    responses = gather_responses(network, {spec.name: spec}, batched(inputs))[spec.name]
    _, job = pair_of(network, spec, responses, 1)
    first, second = job.factors.tensors
    left, right = second.view(spec.groups, -1), first.view(spec.groups, -1)
    norms = [torch.linalg.vector_norm(half, dim=1) for half in (left, right)]
    torch.testing.assert_close(*norms, rtol=1e-10, atol=0)
    threads(3)
    _, again = pair_of(network, spec, responses, 1)
    assert all(
        torch.equal(*halves)
        for halves in zip(job.factors.tensors, again.factors.tensors, strict=True)
    )


def test_dead_channels_take_nothing_from_the_others():
    network, spec, inputs = alone("conv without bias")
    with torch.no_grad():
        network.layer.weight[[1, 4, 5]] = 0
    responses = gather_responses(network, {spec.name: spec}, batched(inputs))[spec.name]
    changed, job = pair_of(network, spec, responses, 5)
    torch.testing.assert_close(changed(inputs), network(inputs), rtol=0, atol=1e-10)
    assert job.error < 1e-12
    more, _ = pair_of(network, spec, responses, 7)
    torch.testing.assert_close(more(inputs), network(inputs), rtol=0, atol=1e-10)
    with torch.no_grad():
        network.layer.weight.zero_()
    nothing = gather_responses(network, {spec.name: spec}, batched(inputs))[spec.name]
    silent, job = pair_of(network, spec, nothing, 2)
    assert not silent(inputs).any()
    assert (job.norm, job.error) == (0, 0)
    assert all(weight.isfinite().all() for weight in job.factors.tensors)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, image):
        return self.norm(self.layer(image)).relu()


def test_a_shift_of_the_running_mean_is_a_bias_in_evaluation_mode():
    torch.manual_seed(0)
    network = Normed().double().eval()
    with torch.no_grad():
        network.norm.weight.normal_()
        network.norm.running_mean.normal_()
        network.norm.running_var.uniform_(0.5, 2)
    inputs = torch.randn(20, 3, 6, 6, dtype=DOUBLE) + 1
    spec = find_layers(network)["layer"]
    responses = gather_responses(network, {"layer": spec}, batched(inputs))["layer"]
    assert responses.absorber == "norm"
    before = network.norm.running_mean.clone()
    changed, job = pair_of(network, spec, responses, 3)
    explicit = copy.deepcopy(network)
    install_pair(explicit, "layer", job.task.choice, job.factors.tensors)
    explicit.layer.second.bias = nn.Parameter(job.factors.constant)
    torch.testing.assert_close(changed(inputs), explicit(inputs), rtol=0, atol=1e-12)
    assert count_parameters(changed) == count_parameters(explicit) - 8
    # What the normalisation is given is right on the average over the images.
    shifted = changed.layer(inputs).mean((0, 2, 3)) - changed.norm.running_mean
    original = network.layer(inputs).mean((0, 2, 3)) - network.norm.running_mean
    torch.testing.assert_close(shifted, original, rtol=0, atol=1e-12)
    assert torch.equal(network.norm.running_mean, before)


def test_what_takes_no_constant_is_given_none():
    network, spec, inputs = alone("conv without bias")
    responses = gather_responses(network, {spec.name: spec}, batched(inputs))[spec.name]
    with pytest.raises(ValueError, match="nothing after layer"):
        add_constant(network, "layer", responses.absorber, torch.zeros(8))


def test_slices_have_no_components_of_their_own():
    network, spec, inputs = alone("conv without bias")
    responses = gather_responses(network, {spec.name: spec}, batched(inputs))[spec.name]
    choice = Choice(0, 3, 1)
    made_by = METHODS["pca"].factorisation
    assert "of one slice, not of 3" in made_by.complaint(choice)
    with pytest.raises(ValueError, match="of one slice, not of 3"):
        made_by(task_of(network, spec, responses, choice))
    plan = Plan({spec.name: choice}, method="pca")
    with pytest.raises(PlanError, match=r"layer: principal components .* of one slice, not of 3"):
        require_makeable({spec.name: spec}, plan, METHODS["pca"])


# Ranks


def greedy(layers, budgets):
    """The algorithm step by step in exact numbers, with all prices anew each time."""
    at = [next(i for i, row in enumerate(own.choices) if row[1] == 0) for own in layers]
    budgets = [max(budget, 1) if budget > 0 else budget for budget in budgets]

    def complexity(own, option):
        costs = own.costs[option]
        return sum(Fraction(int(c), max(b, 1)) for c, b in zip(costs, budgets, strict=True))

    def fits(chosen):
        return all(c <= b for c, b in zip(cost_of(layers, chosen), budgets, strict=True))

    while not fits(at):
        steps = []
        for index, own in enumerate(layers):
            here, kept = complexity(own, at[index]), 1 - Fraction(own.errors[at[index]])
            for option in range(len(own.errors)):
                saved = here - complexity(own, option)
                if saved > 0:
                    lost = kept - 1 + Fraction(own.errors[option])
                    steps.append((lost / kept / saved, index, own.errors[option], saved, option))
        if not steps:
            return None
        _, index, *_, option = min(steps)
        own, after = layers[index], [*at[:index], option, *at[index + 1 :]]
        if fits(after):
            least = complexity(own, option)
            reached = [
                (own.errors[other], complexity(own, other), other)
                for other in range(len(own.errors))
                if complexity(own, other) >= least and fits([*at[:index], other, *at[index + 1 :]])
            ]
            after[index] = min(reached)[2]
        at = after
    return at


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 2))
def test_the_greedy_search_is_the_plain_one(seed, resources):
    generator = np.random.default_rng(seed)
    layers, budgets = random_problem(generator, resources)
    expected = greedy(layers, budgets)
    if expected is None:
        with pytest.raises(InfeasibleError):
            pca.greedy_product(layers, budgets)
        return
    found = pca.greedy_product(layers, budgets)
    assert found == expected
    assert np.all(cost_of(layers, found) <= budgets)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_one_budget_is_met_whenever_it_can_be(seed):
    layers, budgets = random_problem(np.random.default_rng(seed), tied=seed % 2 == 0)
    least = sum(int(own.costs.min()) for own in layers)
    assert cost_of(layers, pca.greedy_product(layers, budgets))[0] <= budgets[0]
    assert cost_of(layers, pca.greedy_product(layers, [least]))[0] == least
    with pytest.raises(InfeasibleError):
        pca.greedy_product(layers, [least - 1])


def eigenvalue_by_eigenvalue(spectra, units, budget):
    """The paper's algorithm: from full ranks, one eigenvalue after another."""
    ranks = [len(values) for values in spectra]
    while sum(j * unit for j, unit in zip(ranks, units, strict=True)) > budget:
        prices = [
            (values[j - 1] / values[:j].sum() / unit, index)
            for index, (values, j, unit) in enumerate(zip(spectra, ranks, units, strict=True))
            if j > 1
        ]
        ranks[min(prices)[1]] -= 1
    return ranks


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_where_every_rank_is_smaller_it_is_the_papers_algorithm(seed):
    generator = np.random.default_rng(seed)
    spectra = [
        np.sort(generator.exponential(size=generator.integers(2, 9)) ** 3)[::-1]
        for _ in range(generator.integers(1, 5))
    ]
    units = generator.integers(1, 20, len(spectra)).tolist()
    layers = []
    for values, unit in zip(spectra, units, strict=True):
        ranks = range(1, len(values))
        lost = pca.energy_lost(values)
        layers.append(
            options(
                [len(values) * unit, *(j * unit for j in ranks)],
                [0.0, *(lost[j] for j in ranks)],
                [(0, 0, 0), *((0, 1, j) for j in ranks)],
            )
        )
    most = sum(len(values) * unit for values, unit in zip(spectra, units, strict=True))
    budget = int(generator.integers(sum(units), most + 1))
    found = pca.greedy_product(layers, [budget])
    ranks = [
        len(values) if index == 0 else index for values, index in zip(spectra, found, strict=True)
    ]
    assert ranks == eigenvalue_by_eigenvalue(spectra, units, budget)


def test_the_product_of_energies_is_near_the_largest():
    """Greedy is not optimal; on small problems it mostly is, and never far off."""
    shares = []
    for seed in range(80):
        generator = np.random.default_rng(seed)
        layers = []
        for _ in range(3):
            values = np.sort(generator.exponential(size=6) ** 2)[::-1]
            unit, lost = int(generator.integers(2, 9)), pca.energy_lost(values)
            ranks = range(1, 6)
            keep = int(generator.integers(3 * unit, 6 * unit))
            rows = [(keep, 0.0, (0, 0, 0))]
            rows += [(j * unit, lost[j], (0, 1, j)) for j in ranks if j * unit < keep]
            layers.append(options(*zip(*rows, strict=True)))
        least = sum(int(own.costs.min()) for own in layers)
        most = sum(int(own.costs.max()) for own in layers)
        budget = int(generator.integers(least, most))

        def product(chosen, layers=layers):
            return np.prod([1 - own.errors[i] for own, i in zip(layers, chosen, strict=True)])

        every = itertools.product(*(range(len(own.errors)) for own in layers))
        best = max(product(c) for c in every if cost_of(layers, c)[0] <= budget)
        shares.append(product(pca.greedy_product(layers, [budget])) / best)
    assert max(shares) <= 1
    assert np.median(shares) > 0.97
    assert min(shares) > 0.6


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_the_energy_lost_is_that_of_the_smallest_eigenvalues(values):
    energies = np.sort(np.array(values))[::-1]
    lost = pca.energy_lost(energies)
    assert len(lost) == len(energies) + 1
    assert lost[-1] == 0
    total = energies.sum()
    for j, share in enumerate(lost):
        expected = energies[j:].sum() / total if total > 0 else 0
        assert share == pytest.approx(expected, rel=1e-9, abs=1e-15)


def problem_of(network, energies, ratio):
    specs = find_layers(network)
    tables, _ = error_tables(network, specs, cache=False)
    weights = sum(spec.weight_params for spec in specs.values())
    others = count_parameters(network) - weights
    budget = int((1 - ratio) * count_parameters(network)) - others
    return Problem(list(tables.layers.values()), [budget], statistics={"responses": energies})


def noise(count=96, size=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    return TensorImages("noise", [pixels], torch.arange(count) % 10)


def test_a_layer_whose_responses_are_not_known_is_kept():
    network = digits_network()
    specs = find_layers(network)
    batches = [(torch.randn(16, 1, 8, 8), torch.zeros(16))] * 3
    energies = response_energies(gather_responses(network, specs, batches))
    every = pca.plan(problem_of(network, energies, 0.4))
    assert every.decomposed
    left_out = next(iter(every.decomposed))
    del energies[left_out]
    fewer = pca.plan(problem_of(network, energies, 0.3))
    assert fewer.choices[left_out] is None
    assert set(fewer.choices) == set(every.choices)
    assert all((choice.scheme, choice.k) == (0, 1) for choice in fewer.decomposed.values())
    with pytest.raises(InfeasibleError) as caught:
        pca.plan(problem_of(network, {}, 0.3))
    assert len(caught.value.layers) == len(every.choices)


def test_without_images_there_is_no_plan():
    with pytest.raises(OptionError, match="needs images") as caught:
        pca.plan(problem_of(digits_network(), None, 0.4))
    assert "--data" in caught.value.tip


def test_ranks_that_lose_nothing_go_first():
    # The first layer's responses are constant, the second's are not.
    lost = [pca.energy_lost(np.array(v)) for v in ([0.0] * 3, [3.0, 2.0, 1.0])]
    layers = [
        options(
            [9, 2, 4, 6],
            [0.0, own[1], own[2], own[3]],
            [(0, 0, 0), *((0, 1, j) for j in (1, 2, 3))],
        )
        for own in lost
    ]
    found = pca.greedy_product(layers, [11])
    assert found == [1, 0]


# The whole way


GREY = Preprocessing((0.5,), (0.25,))
IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def compressed(ratio, path=None, **more):
    network = digits_network()
    return network, api.compress(
        network,
        ratio=ratio,
        method="pca",
        data=noise(),
        preprocessing=GREY,
        samples=64,
        device="cpu",
        cache=False,
        output=path,
        **more,
    )


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_from_a_network_to_a_file_that_runs(ratio, tmp_path, threads):
    path = tmp_path / "small.safetensors"
    network, result = compressed(ratio, path)
    threads(4)
    _, again = compressed(ratio, tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    report = result.report
    assert report.ratio >= ratio
    module = api.load(path)
    assert count_parameters(module) == report.params_after
    assert count_macs(module, (1, 8, 8)) == report.macs_after
    decomposed = [layer for layer in report.layers if layer.choice is not None]
    assert decomposed
    assert all(layer.error > 0 and layer.error_bound is None for layer in decomposed)
    inputs = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(module(inputs), result.network.module(inputs))
    assert module(inputs).shape == network(inputs).shape
    assert again.plan == result.plan


def test_a_ratio_out_of_reach_names_the_largest(tmp_path):
    with pytest.raises(RatioUnreachableError, match="the largest ratio is") as caught:
        compressed(0.99, tmp_path / "small.pt")
    assert list(tmp_path.iterdir()) == []
    largest = caught.value.largest
    assert compressed(largest)[1].report.ratio >= largest


@pytest.mark.slow
def test_a_trained_network_loses_less_than_by_the_svd_of_its_weights(shared):
    """At the same ranks everywhere; all images are from training."""
    data, model = shared / "data" / "cifar10", shared / "weights" / "cifar10_resnet20.safetensors"
    usual = {"device": "cpu", "cache": False}
    plain = api.compress(model, ratio=0.36, method="svd", **usual)
    by_pca = api.compress(
        model,
        plan=replace(plain.plan, method="pca"),
        data=f"tensors:{data / 'train-0.safetensors'}",
        samples=256,
        preprocessing=IMAGENET,
        **usual,
    )
    assert by_pca.plan.choices == plain.plan.choices
    others = open_dataset(f"tensors:{data / 'train-1.safetensors'}").subset(torch.arange(1000))
    prepared = Batches(others, IMAGENET, batch_size=100)
    by_svd, by_responses = (
        measure_quality(result.network.module, prepared, device=torch.device("cpu")).top1
        for result in (plain, by_pca)
    )
    assert by_responses > by_svd + 10
