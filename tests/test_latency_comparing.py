"""Networks and layers against what they were: who is faster, and how sure that is."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from alds_cli import latency
from alds_cli.errors import DataError, OptionError
from alds_cli.latency import compare_latency, slower_layers, timed_layers
from alds_cli.records import Choice, Latency
from alds_cli.runtime.devices import paired
from alds_cli.surgery import make_pair, put_at, reshape_network
from alds_cli.tracing.trace import trace

CPU = torch.device("cpu")


class Noted(nn.Module):
    """Keeps a list of who ran."""

    def __init__(self, name, order):
        super().__init__()
        self.name, self.order = name, order

    def forward(self, x):
        self.order.append(self.name)
        return x


def test_networks_take_turns():
    order = []
    networks = [Noted(name, order) for name in ("original", "compressed")]
    found = compare_latency(*networks, (3, 4, 4), batch_size=2, device=CPU, runs=5, warmup=2)
    assert order[2:] == ["original", "compressed"] * 7
    for own in (found.original, found.compressed):
        assert (own.runs, own.batch_size, own.device) == (5, 2, "cpu")
        assert own.median_ms > 0
    assert found.ratio.rounds == 5
    assert 0 < found.ratio.lower_quartile <= found.ratio.median <= found.ratio.upper_quartile
    assert found.ratio.upper_quartile <= found.ratio.at_most


def test_saving_a_share_must_be_sure():
    dull = Latency(1.0, 1.0, 1.0, 11, 1, "cpu")

    def saving(ratios):
        ratios = np.array(ratios)
        return latency.NetworkComparison(dull, dull, paired(ratios, np.ones(len(ratios))))

    sure = saving([0.65] * 9 + [3.0, 4.0])
    assert sure.saved == pytest.approx(0.35)
    assert sure.saves(0.35)
    assert not sure.saves(0.36)
    torn = saving([0.6] * 7 + [0.8] * 4)
    assert torn.saved == pytest.approx(0.4)
    assert torn.saves(0.2)
    assert not torn.saves(0.3)


def test_refusals():
    network = nn.Linear(3, 3)
    with pytest.raises(OptionError):
        compare_latency(network, network, (3,), batch_size=0, device=CPU)
    with pytest.raises(DataError, match="does not take inputs"):
        compare_latency(network, network, (4,), device=CPU, runs=1)


class Network(nn.Module):
    """Layers of which two are alike, one is called twice and one never."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(16, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 16, 3, padding=1)
        self.unused = nn.Conv2d(16, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 1)
        self.last = nn.Linear(16, 40)

    def forward(self, x):
        x = self.two(self.one(x))
        return self.last(self.twice(self.twice(x)).mean((2, 3)))


CHOICES = {name: Choice(0, 1, 4) for name in ("one", "two", "unused", "twice", "last")}


def compressed(network, choices):
    small = copy.deepcopy(network)
    for name, choice in choices.items():
        put_at(small, name, make_pair(network.get_submodule(name), choice, "cpu"))
    return small


@pytest.fixture
def timed(monkeypatch):
    """Replace the turns by prepared ratios, and keep what each turn ran."""
    kept = []

    def install(ratios):
        values = iter(ratios)

        def fake(runs, device, *, rounds, warmup):
            assert device == CPU
            assert warmup > 0
            assert 25 <= rounds(1e9) <= rounds(1e-9) <= 400
            for run in runs.values():
                run()
            kept.append(list(runs))
            return {"layer": np.ones(25), "pair": np.ones(25) * next(values)}

        monkeypatch.setattr(timed_layers, "in_turns", fake)
        return kept

    return install


def test_each_pair_is_held_against_its_layer(timed):
    network = Network()
    turns = timed([0.9, 1.1, 0.8])  # of `one` and `two`, of `twice`, of `last`
    small = compressed(network, CHOICES)
    found = slower_layers(network, small, CHOICES, trace(network, (16, 8, 8)), device=CPU)
    assert turns == [["layer", "pair"]] * 3
    assert list(found) == ["twice"]
    assert found["twice"].median == pytest.approx(1.1)


def test_pairs_of_other_shapes_are_timed_apart(timed):
    network = Network()
    turns = timed([1.2, 0.9])
    small = compressed(network, {"one": Choice(0, 1, 4), "two": Choice(0, 2, 4)})
    seen = trace(network, (16, 8, 8))
    assert list(slower_layers(network, small, ["one", "two"], seen, device=CPU)) == ["one"]
    assert len(turns) == 2


def test_a_pair_in_doubt_does_not_pass(monkeypatch):
    network = Network()
    small = compressed(network, {"one": Choice(0, 1, 4)})
    seen = trace(network, (16, 8, 8))

    def verdict(pair):
        fake = {"layer": np.ones(25), "pair": np.array(pair)}
        monkeypatch.setattr(timed_layers, "in_turns", lambda *_, **__: fake)
        return bool(slower_layers(network, small, ["one"], seen, device=CPU))

    # A fair coin falls on one side at least 17 times of 25 with a probability of 5.4 %.
    assert verdict([0.9] * 17 + [1.1] * 8)
    assert not verdict([0.9] * 18 + [1.1] * 7)
    assert not verdict([1.0] * 25)
    assert verdict([1.01] * 25)


def test_every_call_of_a_layer_counts(monkeypatch):
    network = Network()
    small = compressed(network, {"twice": Choice(0, 1, 4)})
    seen = trace(network, (16, 8, 8))
    shapes = []
    for part in (network.twice, small.twice):
        part.register_forward_hook(lambda _m, args, _out: shapes.append(tuple(args[0].shape)))

    def fake(runs, _device, **_options):
        for run in runs.values():
            run()
        return {"layer": np.ones(25), "pair": np.ones(25)}

    monkeypatch.setattr(timed_layers, "in_turns", fake)
    slower_layers(network, small, ["twice"], seen, batch_size=3, device=CPU)
    assert shapes == [(3, 16, 8, 8)] * 4


def test_packed_projections_are_held_against_theirs(timed):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    network = Attending()
    small = copy.deepcopy(network)
    reshape_network(small, {"attention.in_proj": Choice(0, 1, 2)})
    small.to_empty(device="cpu")
    timed([1.3])
    seen = trace(network, (5, 16))
    found = slower_layers(network, small, ["attention.in_proj"], seen, device=CPU)
    assert list(found) == ["attention.in_proj"]


def test_real_turns_leave_the_networks_alone():
    network = Network().half()
    small = compressed(network, CHOICES)
    before = [copy.deepcopy(own.state_dict()) for own in (network, small)]
    seen = trace(Network(), (16, 8, 8))
    found = slower_layers(network, small, CHOICES, seen, device=CPU, seconds_per_layer=0.01)
    assert set(found) <= {"one", "two", "twice", "last"}
    assert all(own.rounds >= 25 and own.at_most > 1 for own in found.values())
    for own, state in zip((network, small), before, strict=True):
        assert own.training
        assert all(torch.equal(tensor, state[key]) for key, tensor in own.state_dict().items())
        assert all(tensor.dtype == torch.float16 for tensor in own.state_dict().values())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_waited_for():
    network = Network()
    small = compressed(network, CHOICES)
    seen = trace(network, (16, 8, 8))
    device = torch.device("cuda")
    found = compare_latency(network, small, (16, 8, 8), device=device, runs=5)
    assert found.original.device == "cuda"
    slower_layers(network, small, CHOICES, seen, device=device, seconds_per_layer=0.01)
    assert next(network.parameters()).device == CPU
