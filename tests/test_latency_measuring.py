"""Which pairs of a layer are measured, and what is made of their times."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from alds_cli.latency.configurations import Filler, configurations_of
from alds_cli.latency.measuring import RealMeasure, measure_layer
from alds_cli.records import Choice
from alds_cli.tracing.trace import trace

CPU = torch.device("cpu")


def only(layer, kind, shape, batch_size=1, device=CPU):
    """The one configuration of a layer called once on a sample of this shape."""
    network = nn.Sequential(layer)
    call = trace(network, shape).calls["0"]
    ((found, times),) = configurations_of(layer, kind, call, batch_size, device).items()
    assert times == 1
    return found


CONFIGURATION = only(nn.Conv2d(64, 64, 3, padding=1), "conv2d", (64, 8, 8))


class FakeMeasure:
    """Pairs take a multiple of the layer's second, whatever the clock does meanwhile."""

    def __init__(self, quotient, drift=(1.0,), dense=1.0, noise=None):
        self.quotient, self.drift, self.dense = quotient, drift, dense
        self.noise = np.ones(11) if noise is None else noise
        self.turns, self.now, self.allowed = [], 0.0, []

    def __call__(self, configuration, choices, seconds):
        assert configuration == CONFIGURATION
        drift = self.drift[len(self.turns) % len(self.drift)]
        self.turns.append(list(choices))
        self.allowed.append(seconds)
        times = {None: self.dense * drift * np.ones(11)}
        times |= {c: self.dense * drift * self.quotient(c) * self.noise for c in choices}
        self.now += sum(own.sum() for own in times.values())
        return times

    def measured(self, choices, seconds=1e9):
        return measure_layer(
            CONFIGURATION, choices, self, seconds=seconds, clock=lambda: self.now, now=lambda: 7.0
        )


def grid(*ks, ranks=(8, 16, 24, 32, 40, 48, 56), scheme=0):
    return [Choice(scheme, k, j) for k in ks for j in ranks]


def known(measured):
    return {choice: own.median for choice, own in measured.times.pairs.items() if own is not None}


def test_every_pair_that_is_faster_is_measured():
    fake = FakeMeasure(lambda choice: choice.j / 100)
    choices = grid(1, 2)
    found = fake.measured(choices)
    assert known(found) == {choice: pytest.approx(choice.j / 100) for choice in choices}
    assert found.times.dense_ns == pytest.approx(1e9)
    assert found.times.measured == 7.0
    assert found.scatter == 0
    assert fake.turns[0] == []
    assert sorted(chain.from_iterable(fake.turns)) == sorted(choices)


def test_slices_whose_smallest_rank_is_slower_are_given_up():
    fake = FakeMeasure(lambda choice: 2.0 if choice.k == 4 else 0.5)
    found = fake.measured(grid(1, 4))
    assert {choice for choice in known(found) if choice.k == 4} == {Choice(0, 4, 8)}
    assert {choice.j for choice in known(found) if choice.k == 1} == {8, 16, 24, 32, 40, 48, 56}
    assert set(found.times.pairs) == set(grid(1, 4))  # considered, though not measured


def test_a_slower_rank_takes_the_higher_ones_with_it():
    fake = FakeMeasure(lambda choice: choice.j / 30)
    found = fake.measured(grid(1))
    # 8 comes first, then the middle: 40 is slower, so that only 16 to 32 are left to try.
    assert set(known(found)) == set(grid(1, ranks=(8, 16, 24, 32, 40)))


def test_schemes_are_judged_apart():
    fake = FakeMeasure(lambda choice: 3.0 if choice.scheme == 1 else 0.5)
    found = fake.measured([*grid(1), *grid(1, scheme=1)])
    assert {c for c in known(found) if c.scheme == 1} == {Choice(1, 1, 8)}
    assert len([c for c in known(found) if c.scheme == 0]) == 7


def test_a_pair_as_fast_as_its_layer_does_not_end_the_search():
    fake = FakeMeasure(lambda choice: 1.02 if choice.j == 8 else 0.9)
    assert len(known(fake.measured(grid(1)))) == 7


def test_a_changing_clock_changes_no_quotient():
    fake = FakeMeasure(lambda choice: choice.j / 100, drift=(1.0, 3.0, 0.5))
    found = fake.measured(grid(1, 2))
    assert known(found) == {choice: pytest.approx(choice.j / 100) for choice in grid(1, 2)}


def test_medians_pass_over_disturbed_rounds():
    noise = np.ones(11)
    noise[[2, 5]] = 50.0
    fake = FakeMeasure(lambda _: 0.5, noise=noise)
    own = fake.measured(grid(1)).times.pairs[Choice(0, 1, 8)]
    assert (own.median, own.at_most) == (0.5, 0.5)


def test_the_time_is_kept_and_spent_evenly():
    fake = FakeMeasure(lambda _: 0.5)
    ks = (1, 2, 4, 8)
    found = fake.measured(grid(*ks), seconds=100.0)
    assert fake.now < 100.0 + 11 * (1 + 0.5 * len(ks))
    assert 0 < len(known(found)) < len(grid(*ks))
    in_order = [choice for turn in fake.turns for choice in turn]
    assert [(own.k, own.j) for own in in_order[:8]] == [(k, j) for j in (8, 40) for k in ks]


def test_a_layer_slower_than_the_time_allowed_still_has_a_time():
    fake = FakeMeasure(lambda _: 0.5, dense=1000.0)
    found = fake.measured(grid(1), seconds=1.0)
    assert found.times.dense_ns == pytest.approx(1e12)
    assert known(found) == {}


def test_turns_are_short_and_share_the_time():
    fake = FakeMeasure(lambda _: 0.5, dense=1e-6)
    choices = [Choice(0, k, j) for k in range(1, 41) for j in (8, 16)]
    assert len(known(fake.measured(choices, seconds=80.0))) == len(choices)
    assert max(len(turn) for turn in fake.turns) == 16
    # The first turn has 16 of 80 pairs to measure.
    assert fake.allowed[1] == pytest.approx(16.0, rel=1e-3)


def test_pairs_of_large_layers_are_not_all_in_memory_at_once():
    large = replace(CONFIGURATION, kind="linear", kernel=(), in_channels=25088, out_channels=4096)
    turns = []

    def measure(_configuration, choices, _seconds):
        turns.append(choices)
        return {own: np.ones(11) for own in (None, *choices)}

    choices = [Choice(0, k, j) for k in (1, 2, 4, 7, 8, 14, 16) for j in (8, 1024)]
    pairs = measure_layer(large, choices, measure, seconds=1e9).times.pairs
    assert all(own is not None for own in pairs.values())
    assert len(turns[1]) == 7
    for turn in turns[1:]:
        weights = sum(own.j * (own.k * 4096 + 25088) for own in turn)
        assert len(turn) == 1 or weights <= 25088 * 4096


def test_scatter_is_that_within_turns():
    class Restless(FakeMeasure):
        def __call__(self, configuration, choices, seconds):
            times = super().__call__(configuration, choices, seconds)
            times[None] = np.array([1.0, 2.0, 3.0])
            return {key: own[:3] for key, own in times.items()}

    assert Restless(lambda _: 0.5).measured(grid(1)).scatter == pytest.approx(0.5)


LAYERS = {
    "linear": (nn.Linear(12, 10), "linear", (12,)),
    "sequence": (nn.Linear(12, 10, bias=False), "linear", (5, 12)),
    "conv1d": (nn.Conv1d(8, 6, 3, padding="same"), "conv1d", (8, 9)),
    "conv2d": (nn.Conv2d(8, 6, (3, 5), (1, 2), (1, 0), (2, 1)), "conv2d", (8, 11, 12)),
    "grouped": (nn.Conv2d(8, 12, 3, groups=2, padding_mode="circular"), "conv2d", (8, 7, 7)),
    "conv3d": (nn.Conv3d(4, 6, 3), "conv3d", (4, 5, 6, 7)),
    "transposed": (
        nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1),
        "conv_transpose2d",
        (8, 5, 5),
    ),
    "half": (nn.Linear(12, 10).half(), "linear", (12,)),
}


@pytest.mark.parametrize(("layer", "kind", "shape"), LAYERS.values(), ids=LAYERS)
def test_layers_made_anew_are_those_of_the_network(layer, kind, shape):
    own = only(layer, kind, shape, batch_size=3)
    assert own.input_shape == (3, *shape)
    filler = Filler(CPU)
    twin = filler.fill(own.layer())
    inputs = filler.tensor(own.input_shape, torch.float32)
    layer = layer.float()
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(inputs), layer(inputs))
    assert not twin.training


@pytest.mark.parametrize(("layer", "kind", "shape"), LAYERS.values(), ids=LAYERS)
def test_real_times_are_those_of_all_that_was_asked_for(layer, kind, shape):
    own = only(layer, kind, shape)
    choices = [Choice(0, 1, 1), Choice(0, 2, 1)]
    choices = choices[: 1 if kind == "linear" and len(shape) > 1 else 2]
    times = RealMeasure(CPU)(own, choices, 0.0)
    assert set(times) == {None, *choices}
    rounds = {len(seconds) for seconds in times.values()}
    assert rounds == {7}
    assert all((seconds > 0).all() for seconds in times.values())


def test_made_up_numbers_are_ordinary_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    filler = Filler(CPU)
    layer = filler.fill(CONFIGURATION.layer())
    RealMeasure(CPU)(CONFIGURATION, [Choice(0, 2, 8)], 0.0)
    assert torch.equal(torch.get_rng_state(), before)
    for tensor in (layer.weight, layer.bias, filler.tensor((4, 5), torch.float32)):
        assert tensor.isfinite().all()
        assert 1e-3 < tensor.abs().mean() < 10
        assert not tensor.requires_grad
    assert layer.weight.data_ptr() != filler.fill(CONFIGURATION.layer()).weight.data_ptr()


def test_configurations_differ_in_whatever_matters():
    def of(*args, kind="conv2d", shape=(8, 9, 9), batch_size=1, dtype=torch.float32, **rest):
        return only(nn.Conv2d(*args, **rest).to(dtype), kind, shape, batch_size).key

    keys = [
        of(8, 6, 3),
        of(8, 6, 3, stride=2),
        of(8, 6, 3, padding=1),
        of(8, 6, 3, dilation=2),
        of(8, 6, 3, groups=2),
        of(8, 6, 3, bias=False),
        of(8, 6, 3, padding=1, padding_mode="reflect"),
        of(8, 6, (3, 1)),
        of(8, 7, 3),
        of(8, 6, 3, shape=(8, 9, 10)),
        of(8, 6, 3, batch_size=2),
        of(8, 6, 3, dtype=torch.float64),
    ]
    assert len(set(keys)) == len(keys)
    assert of(8, 6, 3) == of(8, 6, (3, 3))


def test_a_packed_projection_counts_the_rows_that_are_needed():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            memory = x[:, :2]
            return self.attention(x, memory, memory)[0]

    network = Network()
    call = trace(network, (5, 8)).calls["attention.in_proj"]
    layer = nn.Linear(8, 24)
    found = configurations_of(layer, "linear", call, 4, CPU)
    assert {(own.input_shape, own.out_channels): n for own, n in found.items()} == {
        ((4, 5, 8), 8): 1,
        ((4, 2, 8), 16): 1,
    }
