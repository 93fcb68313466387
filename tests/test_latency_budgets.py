"""Budgets of time, on a machine whose times are known: what is promised is what is measured."""

from __future__ import annotations

import re
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_networks import digits_network

from alds_cli import api
from alds_cli.compression import latency_model
from alds_cli.errors import BudgetError, ContractError, OptionError, RatioUnreachableError
from alds_cli.latency import LayerLatency, NetworkComparison
from alds_cli.numerics.fold import pair_macs, pair_params
from alds_cli.records import Choice, Inference
from alds_cli.runtime.devices import as_latency, paired
from alds_cli.surgery import find_layers
from alds_cli.tracing.trace import trace

CPU = torch.device("cpu")

SHAPE = (1, 8, 8)

FORM = SimpleNamespace(inference=Inference(channels_last=True))
"""What a search for the fastest form of the original finds, without timing it."""


@cache
def layers_of_the_original():
    original = digits_network()
    traced = trace(original, SHAPE)
    return traced, find_layers(original, traced)


class Machine:
    """Times of layers in ns: so many for each MAC, and for each slice of a pair.

    Whole networks take `bias` times what their layers take together; what pairs save in
    the whole is `worth` of what they save alone. Rounds differ by the share `scatter` at most.
    """

    def __init__(self, per_mac=1.0, per_slice=0.0, bias=1.0, worth=1.0, promise=1.0, scatter=0.0):
        self.per_mac, self.per_slice, self.bias, self.worth = per_mac, per_slice, bias, worth
        self.promise, self.scatter, self.luck = promise, scatter, 0.0
        self.compared = self.decided = 0
        self.measured = []
        self.suspects = {}
        self.checked = []

    def pair_ns(self, spec, call, choice):
        return round(
            self.per_mac * pair_macs(spec, call.shapes, choice) + self.per_slice * choice.k
        )

    def dense_ns(self, call):
        return round(self.per_mac * call.macs)

    def layers(self, _module, specs, traced, candidates, **_options):
        self.measured.append(candidates)
        found = {}
        for name, offered in candidates.items():
            call = traced.calls[name]
            promised = self.promise
            pairs = {c: round(promised * self.pair_ns(specs[name], call, c)) for c in offered}
            dense = self.dense_ns(call)
            faster = frozenset(c for c, ns in pairs.items() if ns < 0.97 * dense)
            found[name] = LayerLatency(dense, pairs, faster)
        return found

    def whole_ns(self, module):
        """From the widths of its pairs: the original's time less what each of them saves."""
        traced, specs = layers_of_the_original()
        total = saved = 0
        for name, spec in specs.items():
            call = traced.calls[name]
            total += self.dense_ns(call)
            part = module.get_submodule(name)
            if hasattr(part, "first"):
                k = getattr(part.first, "groups", 1)
                choice = Choice(0, k, part.first.weight.shape[0] // k)
                saved += self.dense_ns(call) - self.pair_ns(spec, call, choice)
        return self.bias * (total - self.worth * saved)

    def in_place(self, module, _inputs, names, **_options):
        """The true times of layers, and of pairs by their widths."""
        original = digits_network()
        traced = trace(original, SHAPE)
        specs, found = find_layers(original, traced), {}
        for name in names:
            part, call = module.get_submodule(name), traced.calls[name]
            found[name] = self.dense_ns(call)
            if hasattr(part, "first"):
                k = getattr(part.first, "groups", 1)
                choice = Choice(0, k, part.first.weight.shape[0] // k)
                found[name] = self.pair_ns(specs[name], call, choice)
        return found

    def networks(self, modules, *_shape, **_options):
        return {name: np.full(9, self.whole_ns(m) / 1e9) for name, m in modules.items()}

    def compare(self, original, compressed, *_shape, runs=None, **_options):
        """In rounds that scatter evenly about the true time of the compressed network.

        The first times of a network come out too short by the share `luck`.
        """
        self.compared += runs is None
        self.decided += runs is not None
        rounds = runs or 9
        times = [np.full(rounds, self.whole_ns(m) / 1e9) for m in (original, compressed)]
        times[1] *= 1 + self.scatter * np.linspace(-1, 1, rounds)
        times[1] *= 1 - (self.luck if runs is None else 0)
        return NetworkComparison(
            as_latency(times[0], 1, CPU), as_latency(times[1], 1, CPU), paired(times[1], times[0])
        )

    def slower(self, _original, compressed, names, *_trace, **_options):
        """Of the pairs, those with more ranks than a layer is said to bear in the network."""
        ranks = {
            name: part.first.weight.shape[0] // getattr(part.first, "groups", 1)
            for name in names
            for part in [compressed.get_submodule(name)]
        }
        self.checked.append(ranks)
        return {name: j for name, j in ranks.items() if j > self.suspects.get(name, 10**6)}


@pytest.fixture
def machine(monkeypatch):
    def install(**facts):
        made = Machine(**facts)
        monkeypatch.setattr(latency_model, "layer_latencies", made.layers)
        monkeypatch.setattr(latency_model, "time_networks", made.networks)
        monkeypatch.setattr(latency_model, "compare_latency", made.compare)
        monkeypatch.setattr(latency_model, "slower_layers", made.slower)
        monkeypatch.setattr(latency_model, "times_in_place", made.in_place)
        monkeypatch.setattr(latency_model, "fastest_form", lambda *_args, **_options: FORM)
        return made

    return install


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("bias", [0.9, 1.0, 1.3])
def test_a_ratio_of_the_latency_is_one_of_the_measured_time(machine, ratio, bias):
    there = machine(bias=bias)
    result = api.compress(digits_network(), target="latency", ratio=ratio)
    assert there.whole_ns(result.network.module) <= (1 - ratio) * there.whole_ns(digits_network())
    report = result.report
    assert report.latency_saved >= ratio
    assert report.latency_after.median_ms <= (1 - ratio) * report.latency_before.median_ms * 1.0001
    assert report.macs_after < report.macs_before


def test_a_plan_that_came_out_slower_than_foreseen_is_tightened(machine):
    there = machine(worth=0.8)
    result = api.compress(digits_network(), target="latency", ratio=0.4)
    assert there.compared > 1
    assert result.report.latency_saved >= 0.4


def test_what_is_faster_than_foreseen_need_not_be_given_up(machine):
    there = machine(worth=1.4)
    reachable = api.compress(digits_network(), target="latency", ratio=0.3).report
    assert there.compared == 1
    assert reachable.latency_saved >= 0.3


@pytest.mark.parametrize("limit", [{"ratio": 0.6, "target": "latency"}, {"max_latency": "100us"}])
def test_what_cannot_be_had_says_how_fast_the_best_was(machine, limit, tmp_path):
    there = machine(worth=0.3)
    with pytest.raises((RatioUnreachableError, BudgetError), match="fastest network") as caught:
        api.compress(digits_network(), output=tmp_path / "small.pt", **limit)
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())
    assert f"{there.whole_ns(digits_network()) / 1e6:.3f} ms" in caught.value.message
    if "ratio" in limit:
        assert 0 < caught.value.largest <= 0.3
        machine(worth=0.3)
        again = api.compress(digits_network(), target="latency", ratio=0.8 * caught.value.largest)
        assert again.report.latency_saved >= 0.8 * caught.value.largest


def test_an_absolute_limit_holds(machine):
    there = machine(bias=1.2)
    half = there.whole_ns(digits_network()) / 2
    report = api.compress(digits_network(), max_latency=f"{half / 1e6:.6f}ms").report
    assert report.latency_after.median_ms * 1e6 <= half
    assert report.limits == {"latency": int(f"{half / 1e6:.6f}".replace(".", ""))}


def test_time_and_parameters_together(machine):
    there = machine()
    total = api.compress(digits_network(), ratio=0.01).report.params_before
    result = api.compress(digits_network(), target="latency", ratio=0.3, max_params=total // 3)
    assert result.report.params_after <= total // 3
    assert there.whole_ns(result.network.module) <= 0.7 * there.whole_ns(digits_network())


@pytest.mark.parametrize("target", ["latency", "params", "macs"])
def test_no_layer_becomes_slower(machine, target):
    there = machine(per_slice=20_000.0)
    free = api.compress(digits_network(), target="params", ratio=0.5)
    result = api.compress(digits_network(), target=target, ratio=0.3, never_slower=True)
    traced = trace(digits_network(), SHAPE)
    specs = find_layers(digits_network(), traced)

    def slower(plan):
        return [
            name
            for name, choice in plan.decomposed.items()
            if there.pair_ns(specs[name], traced.calls[name], choice)
            >= there.dense_ns(traced.calls[name])
        ]

    assert slower(free.plan)  # or there would be nothing to avoid
    assert not slower(result.plan)
    assert result.plan.decomposed


def test_a_pair_between_the_measured_ones_is_measured_too(machine):
    there = machine()
    result = api.compress(digits_network(), ratio=0.5, never_slower=True)
    asked = {
        (name, choice)
        for candidates in there.measured
        for name, offered in candidates.items()
        for choice in offered
    }
    assert set(result.plan.decomposed.items()) <= asked
    odd = [choice for choice in result.plan.decomposed.values() if choice.j % 8]
    assert odd  # ranks that the grid does not have


@pytest.mark.parametrize("target", ["latency", "params"])
def test_a_pair_that_is_slower_in_the_network_is_replaced(machine, target):
    there = machine()
    options = {"target": target, "ratio": 0.3, "never_slower": True}
    first = api.compress(digits_network(), **options)
    name, choice = max(first.plan.decomposed.items(), key=lambda item: item[1].j)
    assert choice.j > 1
    there.suspects = {name: choice.j - 1}
    there.checked = []
    second = api.compress(digits_network(), **options)
    assert len(there.checked) > 1
    assert there.checked[-1] == {n: c.j for n, c in second.plan.decomposed.items()}
    kept = second.plan.choices[name]
    assert kept is None or kept.j < choice.j


def test_a_given_plan_with_a_slower_pair_is_refused_only_where_that_matters(machine):
    there = machine()
    plan = api.compress(digits_network(), target="latency", ratio=0.2).plan
    there.suspects = dict.fromkeys(plan.decomposed, 0)
    assert api.compress(digits_network(), plan=plan, target="latency", ratio=0.2).plan == plan
    with pytest.raises(ContractError, match="measure slower"):
        api.compress(digits_network(), plan=plan, max_params="1M", never_slower=True)


def test_where_every_pair_is_slower_nothing_is_made(machine, tmp_path):
    machine(per_slice=1e9)
    with pytest.raises(RatioUnreachableError, match="measure faster") as caught:
        api.compress(digits_network(), ratio=0.2, never_slower=True, output=tmp_path / "small.pt")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_a_plan_that_is_too_slow_is_refused(machine):
    there = machine()
    plan = api.compress(digits_network(), target="latency", ratio=0.2).plan
    there.compared = 0
    assert api.compress(digits_network(), plan=plan, target="latency", ratio=0.2).plan == plan
    with pytest.raises(RatioUnreachableError):
        api.compress(digits_network(), plan=plan, target="latency", ratio=0.9)
    assert there.compared == 2


def test_more_rounds_decide_whether_a_network_is_fast_enough(machine, tmp_path):
    there = machine()
    made = api.compress(digits_network(), target="latency", ratio=0.2)
    share = made.report.latency_saved - 0.02
    asked = {"plan": made.plan, "target": "latency", "ratio": share}

    there.scatter = 0.1
    assert api.compress(digits_network(), **asked).report.latency_saved > share

    there.decided, there.scatter = 0, 0.9
    with pytest.raises(RatioUnreachableError, match="not with 95 % confidence") as told:
        api.compress(digits_network(), **asked, output=tmp_path / "small.pt")
    assert there.decided == 1
    assert told.value.largest < share
    assert not list(tmp_path.iterdir())


def test_times_that_came_out_too_short_by_chance_do_not_count(machine):
    there = machine()
    made = api.compress(digits_network(), target="latency", ratio=0.2)
    there.luck = 0.1
    again = api.compress(digits_network(), plan=made.plan, target="latency", ratio=0.2)
    assert again.report.latency_saved == pytest.approx(made.report.latency_saved)
    asked = {"plan": made.plan, "target": "latency", "ratio": made.report.latency_saved + 0.02}
    there.decided = 0
    with pytest.raises(RatioUnreachableError):
        api.compress(digits_network(), **asked)
    assert there.decided == 1


class Contrary(Machine):
    """Here the pairs with few parameters are the slow ones."""

    def pair_ns(self, spec, call, choice):
        share = pair_params(spec.weight_shape, 0, choice.k, choice.j) / spec.weight_params
        return round(self.dense_ns(call) * (1.2 - share))


def test_budgets_that_exclude_each_other(monkeypatch, tmp_path):
    made = Contrary()
    monkeypatch.setattr(latency_model, "layer_latencies", made.layers)
    monkeypatch.setattr(latency_model, "time_networks", made.networks)
    monkeypatch.setattr(latency_model, "compare_latency", made.compare)
    monkeypatch.setattr(latency_model, "slower_layers", made.slower)
    fast = {"target": "latency", "ratio": 0.3}
    with pytest.raises(BudgetError, match="measure faster") as caught:
        api.compress(digits_network(), max_params=1, **fast)
    least = round(1000 * float(re.search(r"--max-params ([\d.]+)k", caught.value.tip)[1]))
    small = {"max_params": least + 500, "never_slower": True}
    assert api.compress(digits_network(), **small).report.params_after <= least + 500
    assert api.compress(digits_network(), **fast).report.latency_saved >= 0.3
    with pytest.raises(ContractError, match="within all of these together") as caught:
        api.compress(digits_network(), output=tmp_path / "small.pt", **small, **fast)
    assert f"--max-params {(least + 500) / 1000}k" in caught.value.message
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_really_measured(tmp_path):
    """The whole chain with real times; how fast this machine is proves nothing."""
    path = tmp_path / "small.pt"
    try:
        report = api.compress(digits_network(), target="latency", ratio=0.01, output=path).report
    except RatioUnreachableError:
        assert not path.exists()
    else:
        assert report.latency_saved >= 0.01
        assert path.exists()


@pytest.mark.parametrize("target", ["macs", "params"])
@pytest.mark.parametrize("efficiency", [0.3, 0.8])
def test_an_efficiency_is_the_time_saved_for_what_is_removed(machine, target, efficiency):
    machine(per_slice=900.0, promise=0.7)
    asked = {"target": target, "ratio": 0.5, "efficiency": efficiency}
    report = api.compress(digits_network(), **asked).report
    before, after = (getattr(report, f"{target}_{when}") for when in ("before", "after"))
    removed = 1 - after / before
    assert removed >= 0.5
    assert report.latency_saved >= efficiency * removed


def test_pairs_that_promised_too_much_are_not_planned_again(machine):
    there = machine(per_slice=20_000.0, promise=0.3)
    report = api.compress(digits_network(), target="macs", ratio=0.5, efficiency=0.75).report
    assert 1 < there.compared <= 12
    removed = 1 - report.macs_after / report.macs_before
    assert report.latency_saved >= 0.75 * removed


@pytest.mark.slow
def test_every_network_is_brought_into_its_timed_form_once(machine, monkeypatch):
    asked = []

    def noting(self, module):
        asked.append(module)
        return as_timed(self, module)

    as_timed = latency_model.LatencyModel.as_timed
    monkeypatch.setattr(latency_model.LatencyModel, "as_timed", noting)
    there = machine(per_slice=20_000.0, promise=0.3)
    api.compress(digits_network(), target="macs", ratio=0.5, efficiency=0.75)
    assert len(asked) == len({*asked}) == there.compared + 1  # and the original


def test_an_efficiency_out_of_reach_is_told(machine, tmp_path):
    machine(per_slice=60_000.0)
    with pytest.raises(BudgetError, match=r"--efficiency 0\.9 cannot be reached") as told:
        api.compress(
            digits_network(), target="macs", ratio=0.5, efficiency=0.9, output=tmp_path / "x.pt"
        )
    assert "confidence" not in told.value.message
    assert "--efficiency" in told.value.tip or "ask for less" in told.value.tip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [{"target": "latency", "ratio": 0.3}, {"max_params": 1000}],
)
def test_an_efficiency_needs_a_ratio_of_something_else(options):
    with pytest.raises(OptionError, match="--efficiency says"):
        api.compress(digits_network(), efficiency=0.5, **options)
