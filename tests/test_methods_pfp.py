"""Provable filter pruning: sensitivities against loops, guarantees against draws."""

from __future__ import annotations

import copy
import itertools
from fractions import Fraction
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruned_networks import scramble
from torch import nn
from torch.nn import functional as F

from alds_cli.allocation.channel_pruning import PrunableGroup, PruningCost, PruningProblem
from alds_cli.calibration import SENSITIVITIES, channel_sensitivities
from alds_cli.calibration.sensitivities import largest_shares
from alds_cli.compression.filter_pruning import prunable_channels, prune_within
from alds_cli.compression.filter_removal import carry_out_pruning
from alds_cli.compression.targets import Budget, parameters
from alds_cli.errors import DataError, OptionError
from alds_cli.methods import METHODS, pfp
from alds_cli.surgery import find_layers
from alds_cli.tracing.trace import count_parameters, trace

SHAPE = (3, 8, 8)


def network(seed=0):
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(72, 5),
    )
    return scramble(layers, seed)


def images(count, size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, *SHAPE, generator=generator), torch.zeros(size, dtype=torch.int64))
        for _ in range(count)
    ]


def shares_by_loops(weight, columns):
    """The definition, number by number: weight (f, c, t), what it meets (c, t, p)."""
    filters, channels, taps = weight.shape
    most = np.zeros(channels)
    for sign, side in itertools.product((1, -1), (1, -1)):
        kernel = np.maximum(sign * weight, 0)
        given_side = np.maximum(side * columns, 0)
        for filter_, position in itertools.product(range(filters), range(columns.shape[2])):
            parts = [
                sum(kernel[filter_, j, t] * given_side[j, t, position] for t in range(taps))
                for j in range(channels)
            ]
            if sum(parts) > 0:
                most = np.maximum(most, np.array(parts) / sum(parts))
    return most


LAYERS = {
    "plain": nn.Conv2d(3, 4, 3),
    "strided": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
    "dilated": nn.Conv2d(3, 2, 3, dilation=2, padding=2, padding_mode="reflect"),
    "same": nn.Conv2d(3, 2, (2, 3), padding="same"),
    "valid": nn.Conv2d(3, 2, 2, padding="valid"),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("positive", [True, False])
def test_shares_of_convolutions_against_loops(name, positive):
    torch.manual_seed(0)
    layer = copy.deepcopy(LAYERS[name]).double()
    given_map = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    if positive:  # with few channels of both signs, one often answers alone
        given_map = given_map.abs()
        layer.weight.data.abs_()
    if layer.padding == "same":  # PyTorch puts what is odd behind
        padded, padding = F.pad(given_map, (1, 1, 0, 1)), 0
    elif layer.padding_mode == "reflect":
        padded, padding = F.pad(given_map, (2, 2, 2, 2), mode="reflect"), 0
    else:
        padded, padding = given_map, 0 if layer.padding == "valid" else layer.padding
    columns = F.unfold(padded, layer.kernel_size, layer.dilation, padding, layer.stride)
    columns = columns.unflatten(1, (3, -1)).permute(1, 2, 0, 3).flatten(2)
    expected = shares_by_loops(layer.weight.detach().flatten(2).numpy(), columns.numpy())
    found = largest_shares(layer, given_map)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert expected.max() < 1 or not positive


def test_shares_of_linear_layers_and_sequences():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    rows = torch.randn(2, 5, 4, dtype=torch.float64)
    columns = rows.reshape(10, 4).T.unsqueeze(1).numpy()
    expected = shares_by_loops(layer.weight.detach().unsqueeze(2).numpy(), columns)
    np.testing.assert_allclose(largest_shares(layer, rows).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_shares_of_other_convolutions_by_one_channel_at_a_time(kind):
    torch.manual_seed(0)
    layer = kind(3, 4, 2, stride=2, bias=False).double()
    axes = int(kind.__name__[-2])
    given_map = torch.rand(2, 3, *[5, 4, 3][:axes], dtype=torch.float64)
    most = torch.zeros(3, dtype=torch.float64)
    for sign in (1, -1):
        signed = copy.deepcopy(layer)
        signed.weight.data = (sign * layer.weight.data).clamp(min=0)
        response = signed(given_map)
        for j in range(3):
            alone = torch.zeros_like(given_map)
            alone[:, j] = given_map[:, j]
            shares = (signed(alone) / response).nan_to_num(0.0)
            most[j] = torch.maximum(most[j], shares.max())
    torch.testing.assert_close(largest_shares(layer, given_map), most.detach())


def test_large_layers_are_taken_in_parts(monkeypatch):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1)
    given_map = torch.rand(4, 8, 9, 9)
    whole = largest_shares(layer, given_map)
    for patches, shares in ((9 * 9 * 8 * 9 * 4, 300), (2000, 64), (1, 1)):
        monkeypatch.setattr("alds_cli.calibration.sensitivities._PATCH_BYTES", patches)
        monkeypatch.setattr("alds_cli.calibration.sensitivities._SHARE_BYTES", shares)
        torch.testing.assert_close(largest_shares(layer, given_map), whole, rtol=1e-6, atol=0)


def test_dead_inputs_and_responses_count_as_nothing():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    assert largest_shares(layer, torch.zeros(2, 3)).tolist() == [0, 0, 0]
    assert largest_shares(layer, torch.tensor([[1e-42, 0, 5.0]])).tolist() == [0, 0, 0]
    assert largest_shares(layer, torch.tensor([[1.0, 1, 5]])).tolist() == [
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
        0,
    ]


def test_sensitivities_are_the_largest_over_all_batches(threads):
    model = network().float()
    channels = prunable_channels(model, SHAPE, find_layers(model))
    batches = images(4)
    found = []
    for number in (1, 3):
        threads(number)
        found.append(channel_sensitivities(model, channels, batches))
    assert list(found[0]) == ["3", "6"]
    assert [len(own) for own in found[0].values()] == [6, 72]
    for name, own in found[0].items():
        assert own.dtype == np.float64
        assert np.array_equal(own, found[1][name])
        singly = [channel_sensitivities(model, channels, [batch])[name] for batch in batches]
        assert np.array_equal(own, np.max(singly, axis=0))
    first = torch.cat([batch for batch, _ in batches])
    expected = largest_shares(model[3], model[:3](first).detach())
    np.testing.assert_allclose(found[0]["3"], expected.numpy(), rtol=1e-5)


def test_no_images_are_an_error():
    model = network().float()
    channels = prunable_channels(model, SHAPE, find_layers(model))
    with pytest.raises(DataError, match="no images"):
        channel_sensitivities(model, channels, [])


# Guarantees.


def test_guarantees_solve_the_sample_complexity():
    draw = np.random.default_rng(0)
    sensitivities = draw.random(12) ** 4
    total = sensitivities.sum()
    errors = pfp.guarantees(sensitivities, 20, 1e-9)
    assert errors[-1] == 0
    for kept, error in enumerate(errors[:-1], start=1):
        draws = 3 * (6 + 2 * error) * total * log(2 * 20 / 1e-9) / error**2
        expected = (1 - (1 - sensitivities / total) ** draws).sum()
        assert expected == pytest.approx(kept, rel=1e-9)
    assert (np.diff(errors) <= 0).all()


def test_what_draws_are_expected_to_leave_is_what_they_leave():
    draw = np.random.default_rng(1)
    sensitivities = draw.random(10) ** 2
    probabilities = sensitivities / sensitivities.sum()
    draws = pfp._draws_for(np.array([5.0]), probabilities)[0]
    distinct = [
        len(set(draw.choice(10, size=round(draws), p=probabilities).tolist())) for _ in range(4000)
    ]
    assert np.mean(distinct) == pytest.approx(5, abs=0.35)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1)), min_size=1, max_size=30),
    fan_out=st.integers(1, 4096),
)
def test_guarantees_never_rise_and_end_in_nothing(values, fan_out):
    errors = pfp.guarantees(np.array(values), fan_out, 1e-16)
    assert np.isfinite(errors).all()
    assert (np.diff(errors) <= 0).all()
    assert (errors[max(1, np.count_nonzero(values)) - 1 :] == 0).all()


def test_many_channels_are_solved_for_in_blocks():
    sensitivities = np.random.default_rng(0).random(700)
    errors = pfp.guarantees(sensitivities, 64, 1e-16)
    whole = pfp._solved(np.arange(1.0, 700), np.log1p(-sensitivities / sensitivities.sum()))
    assert (np.diff(errors) <= 0).all()
    blocks = pfp._draws_for(np.arange(1.0, 700), sensitivities / sensitivities.sum())
    np.testing.assert_allclose(blocks, whole, rtol=1e-9)


def separate(*groups):
    """A problem in which every channel of every group takes one unit."""
    count = len(groups)
    zeros, ones = np.zeros(count, np.int64), np.ones(count, np.int64)
    cost = PruningCost(
        0, ones, np.eye(count, dtype=np.int64), zeros, np.zeros((count, count), np.int64), ones
    )
    return lambda budget, multiple=1, **arguments: PruningProblem(
        [
            PrunableGroup(str(index), np.ones(len(own)), np.array(own), fan_out)
            for index, (own, fan_out) in enumerate(groups)
        ],
        [cost],
        [budget],
        arguments=arguments,
        multiple=multiple,
    )


@pytest.mark.parametrize("multiple", [1, 2, 3])
def test_the_largest_error_is_as_small_as_it_can_be(multiple):
    draw = np.random.default_rng(3)
    groups = [(draw.random(6) ** 3, 8), (draw.random(5), 500), (draw.random(4) ** 6, 2)]
    problem = separate(*groups)
    errors = [pfp.guarantees(own, fan_out, 1e-16) for own, fan_out in groups]
    possible = [
        [count for count in range(1, size + 1) if count in (size, count // multiple * multiple)]
        for size in (6, 5, 4)
    ]
    for budget in range(3 * multiple, 16):
        removal = pfp.prune(problem(budget, multiple))
        left = [
            len(own) - len(removal.removed.get(str(index), ()))
            for index, (own, _) in enumerate(groups)
        ]
        assert sum(left) <= budget
        assert all(own in counts for own, counts in zip(left, possible, strict=True))
        if multiple == 1:
            assert sum(left) == budget
        worst = max(own[count - 1] for own, count in zip(errors, left, strict=True))
        least = min(
            max(own[count - 1] for own, count in zip(errors, counts, strict=True))
            for counts in itertools.product(*possible)
            if sum(counts) <= budget
        )
        assert worst == least == pytest.approx(removal.objective)


def test_insensitive_channels_go_first():
    removal = pfp.prune(separate(([0.1, 0.9, 0.0, 0.4, 0.2], 4))(2))
    assert removal.removed["0"].tolist() == [0, 2, 4]


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, float("nan")])
def test_delta_is_a_probability(delta):
    with pytest.raises(OptionError, match="delta is a probability"):
        pfp.prune(separate(([0.1, 0.9], 4))(1, delta=delta))


def test_a_whole_network_by_sensitivities():
    model = network().float()
    before = trace(model, SHAPE)
    specs = find_layers(model, before)
    channels = prunable_channels(model, SHAPE, specs)
    sensitivities = channel_sensitivities(model, channels, images(3))
    budget = Budget.of_ratio(parameters(specs, count_parameters(model)), Fraction("0.6"))
    plan = prune_within(
        model, channels, before.calls, [budget], method="pfp", sensitivities=sensitivities
    )
    assert plan.method == "pfp"
    assert plan.seed is None
    assert plan.objective > 0
    # Of a channel that nine columns take, the most sensitive column counts.
    columns = sensitivities["6"].reshape(8, 9).max(axis=1)
    for name, own in (("0", sensitivities["3"]), ("3", columns)):
        kept = plan.pruned[name].outputs
        assert kept == tuple(sorted(np.argsort(own)[::-1][: len(kept)].tolist()))
    carry_out_pruning(model, channels, specs, plan, SHAPE)
    assert count_parameters(model) <= budget.allowed


def test_it_needs_sensitivities():
    assert METHODS["pfp"].needs == (SENSITIVITIES,)
    model = network()
    channels = prunable_channels(model, SHAPE, {})
    budget = Budget.of_ratio(parameters({}, count_parameters(model)), Fraction("0.4"))
    with pytest.raises(ValueError, match="no sensitivities of 0"):
        prune_within(model, channels, {}, [budget], method="pfp")
