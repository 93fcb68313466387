"""`alds-data`: errors on images in tables, plans and pairs, and the constant that keeps means."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_networks import digits_network
from torch import nn

from alds_cli import api
from alds_cli.allocation import Problem
from alds_cli.calibration.input_moments import INPUT_MOMENTS, gather_input_moments, input_tables
from alds_cli.compression.factorise import PairJob, add_constant
from alds_cli.errors import OptionError
from alds_cli.methods import METHODS, FactorTask, alds_data
from alds_cli.numerics.fold import full_rank
from alds_cli.profiling import error_tables
from alds_cli.records import Choice
from alds_cli.runtime.pool import run_jobs
from alds_cli.surgery import find_layers, install_pair, layer_weight

DOUBLE = torch.float64

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "tokens": (lambda: nn.Linear(6, 5, bias=False), (4, 6)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 6, 6)),
    "conv without bias": (lambda: nn.Conv2d(4, 6, 3, bias=False), (4, 5, 5)),
    "grouped": (lambda: nn.Conv1d(8, 10, 3, groups=2, padding=1), (8, 7)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1), (4, 4, 4)),
    "transposed and grouped": (lambda: nn.ConvTranspose1d(8, 6, 3, groups=2), (8, 5)),
}


def alone(kind, seed=0):
    """A network of one layer, its specifications, and inputs that are not centred."""
    torch.manual_seed(seed)
    make, shape = LAYERS[kind]
    network = nn.Sequential()
    network.add_module("layer", make())
    network = network.double().eval()
    spread = torch.linspace(0.2, 2, torch.Size(shape).numel(), dtype=DOUBLE).view(shape)
    return network, find_layers(network), (torch.randn(40, *shape, dtype=DOUBLE) + 0.7) * spread


def in_batches(images, size=16):
    return [(part, torch.zeros(len(part))) for part in images.split(size)]


def replaced(network, spec, found, choice):
    """A copy of the network with the layer replaced by its pair."""
    layer = network.get_submodule(spec.name)
    task = FactorTask(
        spec, choice, layer_weight(layer), layer.bias, statistics={INPUT_MOMENTS.name: found}
    )
    job = PairJob(task, alds_data.DataFitted(), None)
    run_jobs([job])
    changed = copy.deepcopy(network)
    install_pair(changed, spec.name, choice, job.factors.tensors)
    if job.factors.constant is not None:
        add_constant(changed, spec.name, job.factors.absorber, job.factors.constant)
    return changed


@pytest.mark.parametrize("kind", LAYERS)
def test_one_slice_loses_what_the_table_says(kind):
    network, specs, inputs = alone(kind)
    spec = specs["layer"]
    found = gather_input_moments(network, specs, in_batches(inputs))["layer"]
    table = input_tables({"layer": found})["layer"]
    rows = np.flatnonzero(table.choices[:, 1] == 1)
    assert len(rows)
    before = network(inputs).detach().movedim(-1 - len(spec.kernel), 0).flatten(1)
    if spec.bias:
        energy = (before - before.mean(1, keepdim=True)).square().sum(0).mean()
    else:
        energy = before.square().sum(0).mean()
    for row in rows:
        choice = Choice(*(int(value) for value in table.choices[row]))
        after = replaced(network, spec, found, choice)(inputs).detach()
        lost = (after.movedim(-1 - len(spec.kernel), 0).flatten(1) - before).square().sum(0).mean()
        expected = table.tail_energy[row] / table.energies[0]
        assert float(lost / energy) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", LAYERS)
def test_full_rank_loses_nothing(kind):
    network, specs, inputs = alone(kind)
    spec = specs["layer"]
    found = gather_input_moments(network, specs, in_batches(inputs))["layer"]
    before = network(inputs)
    for k in (1, 2):
        choice = Choice(0, k, full_rank(spec.weight_shape, 0, k, spec.groups))
        torch.testing.assert_close(
            replaced(network, spec, found, choice)(inputs), before, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["linear", "conv", "grouped", "transposed"])
@pytest.mark.parametrize("k", [1, 2])
def test_the_mean_of_the_outputs_is_kept(kind, k):
    network, specs, inputs = alone(kind)
    spec = specs["layer"]
    found = gather_input_moments(network, specs, in_batches(inputs))["layer"]
    changed = replaced(network, spec, found, Choice(0, k, 1))
    axis = -1 - len(spec.kernel)
    means = [net(inputs).movedim(axis, 0).flatten(1).mean(1) for net in (network, changed)]
    torch.testing.assert_close(means[1], means[0], rtol=0, atol=1e-10)


def test_layers_whose_moments_are_too_large_become_ordinary_pairs(monkeypatch):
    network, specs, inputs = alone("conv")
    monkeypatch.setattr("alds_cli.calibration.moment_sums.MOST_BYTES", 8)
    found = gather_input_moments(network, specs, in_batches(inputs))["layer"]
    changed = replaced(network, specs["layer"], found, Choice(0, 1, 2))
    first, second = (layer_weight(half).flatten(1) for half in changed.layer)
    u, sigma, v = np.linalg.svd(layer_weight(network.layer).flatten(1).numpy())
    expected = (u[:, :2] * sigma[:2]) @ v[:2]
    np.testing.assert_allclose((second @ first).detach(), expected, rtol=0, atol=1e-9)
    means = [net(inputs).movedim(1, 0).flatten(1).mean(1) for net in (network, changed)]
    torch.testing.assert_close(means[1], means[0], rtol=0, atol=1e-10)


def problem_of(network, statistics, **asked):
    specs = find_layers(network)
    tables, _ = error_tables(network, specs, cache=False)
    budget = sum(spec.weight_params for spec in specs.values()) // 2
    return Problem(list(tables.layers.values()), [budget], statistics=statistics, **asked)


def test_it_needs_images():
    assert METHODS["alds-data"].needs == (INPUT_MOMENTS,)
    with pytest.raises(OptionError, match="needs images"):
        METHODS["alds-data"].plan(problem_of(digits_network(), {}))


def write_digits(path, count=40, *, dark=False):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 8, 8, 1), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=generator)
    save_file({"images": pixels * (not dark), "labels": labels}, path)
    return f"tensors:{path}"


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize("bound", ["density", "sum", "theorem1", "published-code", "frobenius"])
@pytest.mark.parametrize("solver", ["exact", "knapsack", "alternating"])
def test_every_solver_and_bound_works_on_these_errors(model, tmp_path, solver, bound):
    data = write_digits(tmp_path / "digits.safetensors")
    asked = {"method": "alds-data", "data": data, "samples": 24, "dry_run": True}
    if (solver, bound) == ("knapsack", "density"):
        with pytest.raises(OptionError, match="cannot minimise density"):
            api.compress(model, ratio="0.4", solver=solver, bound=bound, **asked)
        return
    result = api.compress(model, ratio="0.4", solver=solver, bound=bound, **asked)
    assert result.plan.solver == solver
    assert result.plan.bound == bound
    assert result.report.params_after <= 0.6 * result.report.params_before
    pairs = [layer for layer in result.report.layers if layer.choice is not None]
    assert pairs
    assert all(layer.error_bound is None for layer in pairs)


def test_true_errors_of_weights_are_not_minimised(model, tmp_path):
    data = write_digits(tmp_path / "digits.safetensors")
    with pytest.raises(OptionError, match="not the true errors of weights"):
        api.compress(model, ratio="0.4", method="alds-data", data=data, bound="exact", dry_run=True)


def test_images_that_are_all_alike_make_a_network_that_runs(model, tmp_path):
    data = write_digits(tmp_path / "dark.safetensors", dark=True)
    result = api.compress(
        model, ratio="0.5", method="alds-data", data=data, samples=20, output=tmp_path / "s.pt"
    )
    with torch.no_grad():
        assert result.network.module(torch.randn(3, 1, 8, 8)).isfinite().all()


def test_the_same_bytes_for_any_number_of_threads(model, tmp_path, threads):
    data = write_digits(tmp_path / "digits.safetensors")
    found = []
    for count in (1, 2):
        threads(count)
        path = tmp_path / f"{count}.safetensors"
        api.compress(
            model, ratio="0.5", method="alds-data", data=data, samples=40, output=path, cache=False
        )
        found.append(path.read_bytes())
    assert found[0] == found[1]
