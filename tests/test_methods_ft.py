"""Filter pruning by norms, against a few lines of NumPy and against all plans there are."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pruned_networks import scramble
from torch import nn

from alds_cli.allocation import InfeasibleError
from alds_cli.allocation.channel_pruning import PrunableGroup, PruningCost, PruningProblem
from alds_cli.api import compress
from alds_cli.architectures import build
from alds_cli.compression.filter_pruning import prunable_channels, prune_within
from alds_cli.compression.filter_removal import carry_out_pruning
from alds_cli.compression.targets import (
    Budget,
    Resource,
    multiply_accumulates,
    parameters,
    pruned_amount,
)
from alds_cli.errors import BudgetError, OptionError, RatioUnreachableError
from alds_cli.inputs import as_inputs
from alds_cli.methods import METHODS, ft
from alds_cli.network.networks import network_of
from alds_cli.records import Architecture
from alds_cli.surgery import find_layers
from alds_cli.surgery.layers import select_layers
from alds_cli.tracing.trace import count_parameters, trace

SHAPE = (3, 8, 8)


def chain(*widths):
    """3×3 convolutions with batch normalisation, and a linear layer."""
    layers = []
    for inputs, outputs in itertools.pairwise((3, *widths)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return scramble(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))
    )


def workplace(network, shape=SHAPE, exclude=()):
    """(channels, calls, specs, resources by name) of a network."""
    before = trace(network, shape)
    specs = select_layers(find_layers(network, before), [], list(exclude))
    channels = prunable_channels(network, shape, specs)
    free = {name: spec for name, spec in specs.items() if spec.reason is None}
    resources = {
        "params": parameters(free, count_parameters(network)),
        "macs": multiply_accumulates(free, before.macs, before.calls),
    }
    return channels, before.calls, specs, resources


def planned(network, ratio, target="params", shape=SHAPE, **options):
    channels, calls, _, resources = workplace(network, shape)
    budget = Budget.of_ratio(resources[target], Fraction(ratio))
    return prune_within(network, channels, calls, [budget], method="ft", **options)


def filters_by_numpy(network, kept):
    """The strongest filters of every convolution, as many as `kept` says."""
    found = {}
    for (name, count), layer in zip(
        kept.items(), (m for m in network if isinstance(m, nn.Conv2d)), strict=True
    ):
        norms = np.sqrt((layer.weight.detach().numpy() ** 2).sum(axis=(1, 2, 3)))
        found[name] = tuple(sorted(np.argsort(norms)[::-1][:count].tolist()))
    return found


def chain_params(widths):
    return (
        sum(9 * a * b + 3 * b for a, b in itertools.pairwise((3, *widths))) + 10 * widths[-1] + 10
    )


@pytest.mark.parametrize("ratio", ["0.05", "0.2", "0.5", "0.8", "0.95"])
def test_a_plain_chain_against_numpy(ratio):
    widths = (8, 12, 20)
    network = chain(*widths)
    plan = planned(network, ratio)
    kept = {
        name: len(plan.pruned[name].outputs or ()) or width
        for name, width in zip(("0", "3", "6"), widths, strict=True)
        if name in plan.pruned
    }
    left = [kept.get(name, width) for name, width in zip(("0", "3", "6"), widths, strict=True)]
    expected = filters_by_numpy(network, dict(zip(("0", "3", "6"), left, strict=True)))
    for name, width in zip(("0", "3", "6"), widths, strict=True):
        outputs = plan.pruned[name].outputs if name in plan.pruned else None
        assert (outputs or tuple(range(width))) == expected[name]
    # The same fraction everywhere, up to a channel, and the budget is met but not by far.
    fractions = [1 - own / width for own, width in zip(left, widths, strict=True)]
    for fraction, width in zip(fractions, widths, strict=True):
        assert abs(fraction - plan.objective) <= 1.5 / width
    allowed = int((1 - Fraction(ratio)) * chain_params(widths))
    assert chain_params(left) <= allowed
    smaller_steps = [
        [own + (index == place) for place, own in enumerate(left)]
        for index, (own, width) in enumerate(zip(left, widths, strict=True))
        if own < width and 1 - own / width + 0.5 / width >= plan.objective
    ]
    assert all(chain_params(more) > allowed for more in smaller_steps)


def test_filters_of_summed_layers_go_together_by_their_common_norm():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.last = nn.Linear(4, 2)

        def forward(self, x):
            return self.last((self.a(x) + self.b(x)).mean((2, 3)))

    network = Block()
    with torch.no_grad():
        network.a.weight.copy_(torch.tensor([3.0, 1, 0, 2]).view(4, 1, 1, 1) / 3**0.5)
        network.b.weight.copy_(torch.tensor([0.0, 1, 2.5, 2]).view(4, 1, 1, 1) / 3**0.5)
    # Norms 3, √2, 2.5 and √8.
    plan = planned(network, "0.3")
    assert plan.pruned["a"].outputs == plan.pruned["b"].outputs == (0, 3)
    assert plan.pruned["last"].inputs == (0, 3)


def test_several_budgets_hold_at_once():
    network = chain(8, 12, 20)
    channels, calls, _, resources = workplace(network)
    budgets = [
        Budget.of_ratio(resources["params"], Fraction("0.3")),
        Budget(resources["macs"], resources["macs"].before // 3),
    ]
    plan = prune_within(network, channels, calls, budgets, method="ft")
    for budget in budgets:
        assert pruned_amount(channels, budget.resource, calls, plan.pruned) <= budget.allowed


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("target", ["params", "macs"])
@pytest.mark.parametrize("ratio", ["0.2", "0.5", "0.9"])
def test_residual_networks_meet_the_ratio_to_the_unit(target, ratio):
    network = scramble(build(Architecture("cifar_resnet20")))
    shape = (3, 32, 32)
    channels, calls, specs, resources = workplace(network, shape)
    budget = Budget.of_ratio(resources[target], Fraction(ratio))
    plan = prune_within(network, channels, calls, [budget], method="ft")
    small = copy.deepcopy(network)
    reports = carry_out_pruning(small, channels, specs, plan, shape)
    before, after = trace(network, shape), trace(small, shape)
    taken = {"params": count_parameters(small), "macs": after.macs}
    for name, amount in taken.items():
        assert pruned_amount(channels, resources[name], calls, plan.pruned) == amount
    assert (1 - Fraction(ratio)) * budget.resource.before >= taken[target]
    assert taken[target] > 0.97 * budget.allowed
    assert count_parameters(network) - taken["params"] == sum(
        report.params_before - report.params_after for report in reports
    )
    assert before.macs > after.macs


def test_the_largest_ratio_is_named_and_can_be_had():
    network = chain(4, 4)
    with pytest.raises(RatioUnreachableError, match=r"last filter.*largest ratio is") as caught:
        planned(network, "0.95")
    largest = caught.value.largest
    assert 0 < largest < 0.95
    assert f"{largest:.4f}" in caught.value.tip
    plan = planned(network, f"{largest:.4f}")
    assert all(len(kept.outputs or (0,)) == 1 for kept in plan.pruned.values())


def test_multiples_of_filters_are_left():
    network = chain(40, 20, 48)
    plan = planned(network, "0.5", multiple=16)
    left = {name: len(own.outputs) for name, own in plan.pruned.items() if own.outputs}
    assert left
    assert all(count % 16 == 0 for count in left.values())
    with pytest.raises(RatioUnreachableError, match="last 16 filters of a group") as caught:
        planned(network, "0.95", multiple=16)
    plan = planned(network, f"{caught.value.largest:.4f}", multiple=16)
    assert {len(own.outputs) for own in plan.pruned.values() if own.outputs} == {16}


def test_compression_leaves_multiples_of_filters():
    original = replace(network_of(chain(40, 20, 48)), inputs=as_inputs(SHAPE))
    made = compress(original, method="ft", ratio=0.4, rank_multiple=8).network
    counts = [part.out_channels for part in made.module.modules() if isinstance(part, nn.Conv2d)]
    assert counts != [40, 20, 48]
    for left, before in zip(counts, (40, 20, 48), strict=True):
        assert left == before or left % 8 == 0


def test_absolute_limits_are_named():
    network = chain(4, 4)
    channels, calls, _, resources = workplace(network)
    with pytest.raises(BudgetError, match="--max-params 10 cannot be reached"):
        prune_within(network, channels, calls, [Budget(resources["params"], 10)], method="ft")


def test_a_network_without_removable_filters_says_so():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(RatioUnreachableError) as caught:
        planned(network, "0.1")
    assert caught.value.largest == 0


def test_latency_cannot_be_planned_for():
    network = chain(4, 4)
    channels, calls, _, _ = workplace(network)
    time = Resource("latency", 100, 100, {}, lambda _spec, choices: choices[:, 0])
    with pytest.raises(OptionError, match="cannot plan for a latency"):
        prune_within(network, channels, calls, [Budget(time, 50)], method="ft")


def test_methods_that_decompose_remove_no_filters():
    network = chain(4, 4)
    channels, calls, _, resources = workplace(network)
    with pytest.raises(OptionError, match="removes no filters"):
        prune_within(network, channels, calls, [Budget(resources["params"], 1)], method="svd")


def test_layers_left_out_keep_their_filters():
    network = chain(8, 12, 20)
    channels, calls, _, resources = workplace(network, exclude=["3"])
    budget = Budget.of_ratio(resources["params"], Fraction("0.3"))
    plan = prune_within(network, channels, calls, [budget], method="ft")
    assert plan.pruned["3"].outputs is None
    assert plan.pruned["3"].inputs is not None


def test_equal_inputs_give_equal_plans_whatever_the_threads(threads):
    network = chain(8, 12, 20)
    plans = []
    for number in (1, 3):
        threads(number)
        plans.append(planned(network, "0.5"))
    assert plans[0] == plans[1]
    assert METHODS["ft"].prune is ft.prune


# Against brute force, on numbers alone.


def product_cost(widths):
    """Σ over neighbouring groups of the product of their counts, and of each count."""
    count = len(widths)
    outputs, inputs, constant = [], [], []
    for index in range(count):
        unit = [int(place == index) for place in range(count)]
        outputs.append(unit)
        following = [int(place == index + 1) for place in range(count)]
        inputs.append(following)
        constant.append(1)
    zeros = np.zeros(count, np.int64)
    return PruningCost(
        7,
        np.full(count, 3),
        np.array(outputs),
        zeros,
        np.array(inputs),
        np.array(constant),
    )


def spent(counts):
    return 7 + sum(
        3 * own * (1 + after) for own, after in zip(counts, (*counts[1:], 0), strict=True)
    )


@settings(max_examples=120, deadline=None)
@example(widths=[4, 5, 1, 5], share=0.671875, seed=0, multiple=1)  # two of a group fit back
@example(widths=[4, 4, 2], share=0.3125, seed=0, multiple=1)  # one is due at the same fraction
@example(widths=[8, 5, 2], share=0.5, seed=0, multiple=4)  # one group must stay as it is
@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
    multiple=st.integers(1, 4),
)
def test_the_smallest_fraction_that_meets_the_budget(widths, share, seed, multiple):
    draw = np.random.default_rng(seed)
    groups = [PrunableGroup(str(index), draw.random(width)) for index, width in enumerate(widths)]
    budget = int(share * spent(widths))
    problem = PruningProblem(groups, [product_cost(widths)], [budget], multiple=multiple)
    possible = [
        [*(count for count in range(1, width) if count % multiple == 0), width] for width in widths
    ]
    if spent([min(counts) for counts in possible]) > budget:
        with pytest.raises(InfeasibleError):
            ft.prune(problem)
        return
    removal = ft.prune(problem)
    left = [group.size - len(removal.removed.get(group.name, ())) for group in groups]
    assert spent(left) <= budget
    for group, own, counts in zip(groups, left, possible, strict=True):
        assert own in counts
        gone = set(removal.removed.get(group.name, np.array([], int)).tolist())
        others = [group.norms[index] for index in range(group.size) if index not in gone]
        assert all(group.norms[index] <= min(others) for index in gone)

    def rounded(fraction, slack):
        """Every group loses as much of that fraction, halves rounded up, as it can."""
        most = fraction + slack
        return [
            min(left for left in counts if left == size or 1 - (left + 0.5) / size < most)
            for counts, size in zip(possible, widths, strict=True)
        ]

    # A smaller fraction does not meet the budget, and this one does.
    due = rounded(removal.objective, 1e-9)
    assert spent(due) <= budget
    if removal.objective > 0:
        assert spent(rounded(removal.objective, -1e-9)) > budget
    # Groups have at most one step back, and those that have none cannot have their last one.
    for index, counts in enumerate(possible):
        back = counts[min(counts.index(due[index]) + 1, len(counts) - 1)]
        assert left[index] >= due[index]
        if left[index] == due[index] < back:
            assert spent([*left[:index], back, *left[index + 1 :]]) > budget
