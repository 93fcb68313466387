"""Ratios kept in whole numbers, plans carried out, solvers compared on real networks."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import digits_network
from torch import nn

from alds_cli import api
from alds_cli.allocation import ERROR_DEFINITIONS, layer_options, smallest_cost
from alds_cli.architectures import build
from alds_cli.compression.low_rank import plan_within
from alds_cli.compression.targets import Budget, parameters
from alds_cli.errors import (
    BadWeightsError,
    ContractError,
    OptionError,
    PlanError,
    RatioUnreachableError,
)
from alds_cli.methods import METHODS
from alds_cli.methods.solvers import SOLVERS
from alds_cli.network.loading import load_network
from alds_cli.profiling import TrueErrors, error_tables
from alds_cli.records import Architecture, Choice, Plan
from alds_cli.surgery import find_layers
from alds_cli.surgery.layers import select_layers
from alds_cli.text import parse_ratio
from alds_cli.tracing.trace import count_parameters


def plan_for_ratio(net, specs, tables, ratio, **options):
    own = {name: spec for name, spec in specs.items() if spec.reason is None}
    budget = Budget.of_ratio(parameters(own, count_parameters(net)), ratio)
    return plan_within(specs, tables, [budget], refine=TrueErrors(net, tables), **options)


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "1",
        "-1",
        "nan",
        "inf",
        "-inf",
        "abc",
        "",
        "1e400",
        "1.0",
        0,
        1,
        1.5,
        -0.1,
        "1/0",
        "1e999999999999",
        "1e-999999999999",
        "1E+1_000_000_000",
        "50%",
        float("nan"),
        True,
        "0x1",
    ],
)
def test_ratios_that_make_no_sense(value):
    with pytest.raises(OptionError, match="between 0 and 1"):
        parse_ratio(value)


@pytest.mark.parametrize(
    ("value", "exact"),
    [
        ("0.1", Fraction(1, 10)),
        (0.1, Fraction(1, 10)),
        ("1e-3", Fraction(1, 1000)),
        (".5", Fraction(1, 2)),
        (Fraction(1, 3), Fraction(1, 3)),
        ("0.333", Fraction(333, 1000)),
    ],
)
def test_ratios_are_what_their_digits_say(value, exact):
    assert parse_ratio(value) == exact


@pytest.fixture(scope="module")
def profiled():
    net = digits_network()
    specs = find_layers(net)
    return net, specs, error_tables(net, specs, cache=False)[0]


@settings(max_examples=30, deadline=None)
@given(
    st.decimals("0.0001", "0.92", places=4).map(str)
    | st.integers(1, 92).map(lambda n: f"0.{n:02}"),
    st.sampled_from(
        [
            (s, b)
            for s in METHODS["alds"].solvers
            for b in ERROR_DEFINITIONS
            if b not in SOLVERS[s].excluded
        ]
    ),
)
def test_never_less_is_removed_than_asked(profiled, text, how):
    solver, bound = how
    net, specs, tables = profiled
    ratio = parse_ratio(text)
    plan = plan_for_ratio(net, specs, tables, ratio, bound=bound, solver=solver)
    work = api.compress(net, plan=plan, dry_run=True).report
    assert work.params_before == count_parameters(net)
    assert work.params_after <= (1 - Fraction(text)) * work.params_before
    assert set(plan.choices) == set(specs)
    assert plan.objective >= plan.objective_bound >= 0


@settings(max_examples=8, deadline=None)
@given(st.decimals("0.01", "0.9", places=3).map(str))
def test_the_report_counts_what_the_artefact_holds(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "counted.pt"
    report = api.compress(digits_network(), ratio=text, output=path, cache=False).report
    assert report.params_after == count_parameters(api.load(path))
    assert report.params_after <= (1 - Fraction(text)) * report.params_before
    assert report.bytes_after == path.stat().st_size
    assert report.ratio >= float(text) - 1e-15
    for layer in report.layers:
        assert layer.error <= layer.error_bound * (1 + 1e-6) + 1e-6
        assert (layer.choice is None) == (layer.reason is not None)
    kept = [layer for layer in report.layers if layer.choice is None]
    assert all(layer.params_before == layer.params_after for layer in kept)


@pytest.mark.parametrize("solver", ["exact", "alternating"])
@pytest.mark.parametrize(
    "options", [{}, {"include": ["classifier.*"]}, {"exclude": ["features.7"]}]
)
def test_the_largest_ratio_can_be_had(solver, options):
    with pytest.raises(RatioUnreachableError) as caught:
        api.compress(digits_network(), ratio="0.999", solver=solver, **options)
    largest = caught.value.largest
    assert f"{largest:.4f}" in caught.value.message
    assert caught.value.exit_code == 1
    assert (
        api.compress(digits_network(), ratio=largest, solver=solver, **options).report.ratio
        >= largest
    )
    with pytest.raises(RatioUnreachableError):
        api.compress(digits_network(), ratio=largest + 1e-3, solver=solver, **options)


def test_patterns_choose_layers():
    specs = find_layers(digits_network())
    chosen = select_layers(specs, ["features.*"], ["features.3"])
    open_layers = {name for name, spec in chosen.items() if spec.reason is None}
    assert open_layers == {name for name in specs if name.startswith("features")} - {"features.3"}
    assert "--include" in chosen["features.3"].reason
    for include, exclude in ((["nothing*"], []), ([], ["features.99"])):
        with pytest.raises(OptionError, match="matches no layer"):
            select_layers(specs, include, exclude)
    result = api.compress(
        digits_network(), ratio=0.3, include=["features.*"], exclude=["features.3"]
    )
    assert set(result.plan.decomposed) <= open_layers


@pytest.mark.parametrize("option", ["method", "solver", "bound"])
def test_unknown_names(option):
    with pytest.raises(OptionError, match="nonsense") as caught:
        api.compress(digits_network(), ratio=0.5, **{option: "nonsense"})
    assert "choose from" in caught.value.tip


def test_a_plan_is_replayed_and_may_be_edited(tmp_path):
    path = tmp_path / "plan.json"
    first = api.compress(digits_network(), ratio=0.5, plan_output=path)
    again = api.compress(digits_network(), plan=path)
    for name, tensor in first.network.module.state_dict().items():
        assert torch.equal(again.network.module.state_dict()[name], tensor)
    [name, *_] = first.plan.decomposed
    choice = first.plan.decomposed[name]
    edited = Plan({**first.plan.choices, name: Choice(choice.scheme, choice.k, 1)})
    assert api.compress(digits_network(), plan=edited, ratio=0.5).report.ratio > first.report.ratio
    with pytest.raises(ContractError, match="less than the"):
        api.compress(digits_network(), plan=edited, ratio=0.99)


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"nowhere": Choice(0, 1, 1)}, "no such layer"),
        ({"features.3": Choice(7, 1, 1)}, "scheme 7"),
        ({"features.3": Choice(0, 5, 1)}, "does not divide"),
        ({"features.3": Choice(0, 1, 10**9)}, "not between"),
        ({"features.3": Choice(0, -1, 1)}, "does not divide"),
        ({"classifier.0": Choice(3, 1, 1)}, "scheme 3"),
    ],
)
def test_plans_that_do_not_fit(choices, complaint, tmp_path):
    net = digits_network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(PlanError, match=complaint):
        api.compress(net, plan=Plan(choices), output=tmp_path / "out.pt")
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    "choices",
    [{}, {"features.0": None}, {"features.3": Choice(1, 1, 2)}, {"features.3": Choice(3, 2, 1)}],
)
def test_plans_that_leave_layers_alone(choices, cache):
    report = api.compress(digits_network(), plan=Plan(choices), cache=cache).report
    changed = {name for name, choice in choices.items() if choice}
    assert {layer.name for layer in report.layers if layer.choice} == changed
    assert all(layer.reason for layer in report.layers if not layer.choice)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("form", ["module", "file"])
def test_weights_that_are_not_finite_are_named(value, form, tmp_path):
    net = digits_network()
    with torch.no_grad():
        net.features[3].weight[0, 0, 0, 0] = value
    model = net
    if form == "file":
        model = tmp_path / "model.pt"
        torch.save(net.state_dict(), model)
    for call in (api.compress, api.profile):
        options = {"ratio": 0.5} if call is api.compress else {}
        with pytest.raises(BadWeightsError, match=r"features\.3\.weight"):
            call(model, **options)


def test_weights_that_are_integers_or_absent_are_named(tmp_path):
    state = digits_network().state_dict()
    state["classifier.0.weight"] = state["classifier.0.weight"].to(torch.int8)
    path = tmp_path / "model.pt"
    torch.save(state, path)
    with pytest.raises(BadWeightsError, match=r"classifier\.0\.weight"):
        api.load(path)
    with pytest.raises(BadWeightsError, match="no values"):
        api.compress(build(Architecture("digits_cnn"), device="meta"), ratio=0.5)


def require_exact_is_best(network, ratios, seeds):
    specs = find_layers(network.module)
    tables, _ = error_tables(network.module, specs)
    for bound in set(ERROR_DEFINITIONS) - {*SOLVERS["alternating"].excluded}:
        for ratio in ratios:
            asked = Fraction(ratio, 10)

            def objective(solver, seed, bound=bound, asked=asked):
                plan = plan_for_ratio(
                    network.module, specs, tables, asked, solver=solver, bound=bound, seed=seed
                )
                return plan.objective

            best = objective("exact", 0)
            assert best == objective("exact", 1)
            for seed in seeds:
                assert best <= objective("alternating", seed)


@pytest.mark.parametrize("name", ["cifar10_resnet20"])
def test_exact_is_never_beaten_on_a_real_network(shared, name):
    network = load_network(shared / "weights" / f"{name}.safetensors")
    require_exact_is_best(network, (2, 6, 8), (0,))


@pytest.mark.slow
def test_exact_is_never_beaten_by_any_seed(shared):
    network = load_network(shared / "weights" / "cifar10_resnet20.safetensors")
    require_exact_is_best(network, range(1, 10), range(6))


def test_smallest_cost_is_that_of_the_cheapest_option():
    module = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(12, 4, (1, 3)), nn.Linear(2, 3))
    specs = find_layers(module)
    tables, _ = error_tables(module, specs, schemes=(0, 1, 2, 3), cache=False)
    for table in tables.layers.values():
        for schemes, multiple in product(((0,), (3,), (0, 1, 2, 3)), (1, 2, 5, 64)):
            options = layer_options(table, schemes=schemes, rank_multiple=multiple)
            tabled = sorted(set(schemes) & set(table.norms))
            assert smallest_cost(table.spec, tabled, multiple) == options.costs.min()
