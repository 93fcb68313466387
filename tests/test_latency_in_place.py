"""Times of layers within their network."""

from __future__ import annotations

import time

import torch
from torch import nn

from alds_cli.inputs import InputSpec
from alds_cli.latency import in_place
from alds_cli.latency.in_place import put_in_place, times_in_place
from alds_cli.latency.network_times import LayerLatency
from alds_cli.records import Choice
from alds_cli.surgery import find_layers
from alds_cli.tracing.trace import trace

CPU = torch.device("cpu")


class Slow(nn.Linear):
    def forward(self, x):
        time.sleep(0.002)
        return super().forward(x)


def test_a_layer_takes_what_its_calls_take_together(monkeypatch):
    monkeypatch.setattr(in_place, "_ROUNDS", 3)
    twice, once = Slow(4, 4), Slow(4, 4)
    network = nn.Sequential(twice, twice, once, nn.Linear(4, 2))
    found = times_in_place(
        network, InputSpec.of_sample((4,)), ["0", "2", "3", "no.module"], device=CPU
    )
    assert found.keys() == {"0", "2", "3"}
    assert found["0"] >= 4e6
    assert 2e6 <= found["2"] < found["0"]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_fetching_falls_with_the_weights():
    network = nn.Sequential(nn.Linear(100, 100, bias=False))
    specs = find_layers(network, trace(network, (100,)))
    half, dearer = Choice(0, 1, 25), Choice(0, 1, 40)
    alone = {"0": LayerLatency(1000, {half: 600, dearer: 700}, frozenset())}
    found = put_in_place(alone, specs, {"0": 1400.0})["0"]
    assert (found.dense_ns, found.pairs) == (1400, {half: 800, dearer: 1020})
    assert alone["0"].pairs == {half: 600, dearer: 700}
    faster = put_in_place(alone, specs, {"0": 900.0})["0"]
    assert (faster.dense_ns, faster.pairs) == (1000, {half: 600, dearer: 700})


def test_uncertain_times_count_at_their_upper_ends():
    network = nn.Sequential(nn.Linear(100, 100, bias=False))
    specs = find_layers(network, trace(network, (100,)))
    choice = Choice(0, 1, 25)
    alone = {"0": LayerLatency(1000, {choice: 600}, frozenset({choice}), {choice: 650})}
    assert put_in_place(alone, specs, {})["0"].pairs == {choice: 650}
