"""Budgets of every kind are kept to the unit, alone and together, or refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_networks import digits_network
from torchvision.models import resnext50_32x4d

from alds_cli import api
from alds_cli.errors import (
    BudgetError,
    ContractError,
    OptionError,
    RatioUnreachableError,
)
from alds_cli.records import Choice, Plan
from alds_cli.text import SIZES, parse_quantity
from alds_cli.tracing.trace import count_macs, count_parameters

SHAPE = (1, 8, 8)

RATIOS = st.integers(1, 80).map(lambda n: f"0.{n:02}")

IN_A_FOLDER = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@IN_A_FOLDER
@given(ratio=RATIOS)
def test_a_ratio_of_the_bytes_is_one_of_the_file(model, tmp_path, suffix, ratio):
    path = tmp_path / f"small{suffix}"
    report = api.compress(model, target="bytes", ratio=ratio, output=path).report
    assert report.bytes_before == model.stat().st_size
    assert report.bytes_after == path.stat().st_size
    assert path.stat().st_size <= (1 - float(ratio)) * model.stat().st_size
    assert report.target == "bytes"
    # not by throwing away more than the names of the pairs can explain
    assert path.stat().st_size >= (1 - float(ratio)) * model.stat().st_size - 6000


@IN_A_FOLDER
@given(ratio=RATIOS)
def test_a_ratio_of_the_macs_is_one_of_what_pytorch_counts(model, ratio):
    result = api.compress(model, target="macs", ratio=ratio)
    counted = count_macs(result.network.module, SHAPE)
    assert result.report.macs_after == counted
    assert result.report.macs_before == count_macs(digits_network(), SHAPE)
    assert counted <= (1 - float(ratio)) * result.report.macs_before


@pytest.mark.parametrize("solver", ["exact", "knapsack"])
def test_several_budgets_hold_together(model, tmp_path, solver):
    path = tmp_path / "small.safetensors"
    before = api.compress(model, ratio=0.01).report
    limits = {
        "max_params": int(0.8 * before.params_before),
        "max_macs": int(0.7 * before.macs_before),
        "max_size": f"{0.75 * before.bytes_before / 1000:.3f}kB",
    }
    report = api.compress(model, ratio=0.25, output=path, solver=solver, **limits).report
    assert report.params_after <= 0.75 * before.params_before
    assert report.macs_after <= limits["max_macs"]
    assert path.stat().st_size <= 0.75 * before.bytes_before
    assert count_parameters(api.load(path)) == report.params_after
    assert set(report.limits) == {"params", "macs", "bytes"}
    assert report.objective >= report.objective_bound > 0
    binding = [
        api.compress(model, solver="knapsack", **{name: limit}).report.objective_bound
        for name, limit in limits.items()
    ]
    if solver == "knapsack":
        assert report.objective >= max(binding)


@pytest.mark.parametrize(
    ("options", "solver", "bound"),
    [
        ({"ratio": 0.3}, "exact", "density"),
        ({"ratio": 0.3, "target": "bytes"}, "exact", "density"),
        ({"ratio": 0.3, "max_macs": "200k"}, "knapsack", "frobenius"),
        ({"ratio": 0.3, "target": "macs"}, "knapsack", "frobenius"),
        ({"ratio": 0.3, "target": "macs", "solver": "exact"}, "exact", "density"),
        ({"ratio": 0.3, "bound": "sum"}, "exact", "sum"),
        ({"ratio": 0.3, "target": "macs", "bound": "sum"}, "knapsack", "sum"),
    ],
)
def test_what_is_minimised_suits_the_budget(model, options, solver, bound):
    report = api.compress(model, **options).report
    assert (report.solver, report.bound) == (solver, bound)


def test_density_is_that_of_what_is_spent(model):
    """At the least maximum no layer saves much more by the next MAC than another."""
    by_macs = api.compress(model, target="macs", ratio=0.3, solver="exact").plan
    by_params = api.compress(model, ratio=0.3).plan
    assert by_macs.decomposed != by_params.decomposed
    macs = api.compress(model, plan=by_macs).report.macs_after
    cheapest = api.compress(model, max_macs=macs, solver="exact").plan
    assert cheapest.decomposed == by_macs.decomposed


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_smallest_file_is_named_to_the_byte(model, tmp_path, suffix):
    path = tmp_path / f"small{suffix}"
    with pytest.raises(BudgetError) as caught:
        api.compress(model, max_size=1, output=path)
    written = caught.value.tip.partition(",")[0].removeprefix("--max-size ")
    least = parse_quantity(written, SIZES, "--max-size")
    assert api.compress(model, max_size=written, output=path).report.bytes_after == least
    with pytest.raises(BudgetError):
        api.compress(model, max_size=least - 1, output=path)


def test_the_tighter_of_a_ratio_and_a_limit_counts(model):
    total = count_parameters(digits_network())
    loose = api.compress(model, ratio=0.5, max_params=total)
    tight = api.compress(model, ratio=0.1, max_params=total // 2)
    assert loose.report.params_after <= total / 2
    assert tight.report.params_after <= total // 2
    assert tight.plan.decomposed == loose.plan.decomposed


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_params": "1"}, BudgetError),
        ({"max_macs": "1"}, BudgetError),
        ({"max_size": "1B"}, BudgetError),
        ({"ratio": "0.99", "target": "macs"}, RatioUnreachableError),
        ({"ratio": "0.99", "target": "bytes"}, RatioUnreachableError),
        ({"ratio": "0.2", "max_size": "100"}, BudgetError),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(model, tmp_path, options, kind):
    with pytest.raises(kind, match="cannot be reached") as caught:
        api.compress(model, output=tmp_path / "small.pt", **options)
    assert caught.value.exit_code == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]
    option, value = caught.value.tip.partition(",")[0].split(" ")
    if option == "--ratio" and float(value) > 0:
        again = {**options, "ratio": value}
    else:
        again = {**options, option.removeprefix("--").replace("-", "_"): value}
    assert api.compress(model, **again).report.params_after > 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"ratio": 0.5, "target": "speed"}, "unknown target"),
        ({"max_params": "many"}, "--max-params"),
        ({"max_latency": "3"}, "--max-latency"),
        ({"ratio": 0.5, "rank_multiple": 0}, "multiple of 0"),
        ({"ratio": 0.5, "solver": "knapsack", "bound": "density"}, "cannot minimise density"),
        ({"ratio": 0.5, "max_macs": "1M", "solver": "alternating"}, "one budget, not 2"),
        ({"ratio": 0.5, "solver": "alternating", "bound": "exact"}, "cannot minimise exact"),
        ({"ratio": 0.5, "batch_size": 0}, "batch of 0"),
        ({"ratio": 0.5, "target": "latency", "device": "abacus"}, "abacus"),
        ({"target": "macs"}, "Neither a ratio nor a limit"),
        ({"never_slower": True}, "Neither a ratio nor a limit"),
    ],
)
def test_options_that_make_no_sense(model, options, complaint):
    with pytest.raises(OptionError, match=complaint):
        api.compress(model, **options)


def test_macs_and_times_need_a_network_that_runs():
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    for target in ("macs", "latency"):
        with pytest.raises(OptionError) as caught:
            api.compress(net, target=target, ratio=0.3)
        assert "--input-shape" in caught.value.tip


@pytest.mark.parametrize("multiple", [2, 4, 8])
def test_ranks_are_multiples(model, multiple):
    result = api.compress(model, ratio=0.4, rank_multiple=multiple)
    assert result.report.ratio >= 0.4
    assert all(choice.j % multiple == 0 for choice in result.plan.decomposed.values())
    assert any(choice.j > 0 for choice in result.plan.decomposed.values())
    free = api.compress(model, ratio=0.4)
    assert free.report.objective <= result.report.objective


def test_no_rank_is_such_a_multiple(model):
    with pytest.raises(RatioUnreachableError):
        api.compress(model, ratio=0.1, rank_multiple=10_000)


def test_a_plan_is_held_to_every_budget(model):
    plan = Plan({"features.3": Choice(0, 1, 1)})
    macs = api.compress(model, plan=plan).report.macs_after
    assert api.compress(model, plan=plan, max_macs=macs).report.macs_after == macs
    with pytest.raises(BudgetError, match="more than the"):
        api.compress(model, plan=plan, max_macs=macs - 1)
    with pytest.raises(ContractError, match="removes"):
        api.compress(model, plan=plan, target="macs", ratio=0.9)
    with pytest.raises(BudgetError, match="bytes, more than"):
        api.compress(model, plan=plan, max_size=100)


@pytest.mark.slow
def test_grouped_layers_are_priced_as_they_are_counted():
    torch.manual_seed(0)
    net = resnext50_32x4d(num_classes=4).eval()
    result = api.compress(net, target="macs", ratio=0.2, include=["layer[34].*"], cache=False)
    grouped = [layer for layer in result.report.layers if layer.choice and layer.shape[1] == 16]
    assert result.report.macs_after == count_macs(result.network.module, (3, 224, 224))
    assert count_parameters(result.network.module) == result.report.params_after
    assert result.report.macs_after <= 0.8 * result.report.macs_before
    for layer in grouped:
        assert layer.error <= layer.error_bound * (1 + 1e-6) + 1e-6
