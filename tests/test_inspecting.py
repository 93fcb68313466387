"""`alds inspect` of networks: what each layer costs before and after, in MACs and in time."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_networks import digits_network
from torch import nn

from alds_cli import api, architectures
from alds_cli.errors import ArchitectureError
from alds_cli.inspecting import layer_costs
from alds_cli.latency import Timed, fastest_form, layer_times, timed_layers
from alds_cli.records import Inference
from alds_cli.surgery.inference_form import foldable_norms
from alds_cli.text import short_count
from alds_cli.tracing.trace import trace

CPU = torch.device("cpu")


class Encoder(nn.Module):
    """A convolution, an attention and a linear layer for (3, 8, 8)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.block(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


def encoder():
    torch.manual_seed(0)
    return Encoder().eval()


NAMED = api.Source("test_inspecting:encoder", input_shape=(3, 8, 8))


DIGITS = api.Source("digits_cnn")


def compressed(method, source, ratio=0.4):
    model = encoder() if source is NAMED else digits_network()
    return model, api.compress(model, source, ratio=ratio, method=method).network


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize(
    ("method", "source"),
    [("alds", DIGITS), ("alds+", DIGITS), ("messi", DIGITS), ("ft", DIGITS), ("alds", NAMED)],
)
def test_what_layers_lose_is_what_the_network_loses(method, source):
    original, small = compressed(method, source)
    found = api.inspect(small)
    plain = api.inspect(original, source)
    assert (found.params_before, found.macs_before) == (plain.params, plain.macs)
    assert found.macs < found.macs_before
    lost = [found.layer_macs[layer.name] for layer in found.layers]
    assert sum(own.before - own.after for own in lost) == found.macs_before - found.macs
    assert {name: own.before for name, own in found.layer_macs.items()} == {
        name: own.after for name, own in plain.layer_macs.items()
    }
    assert any(own.before > own.after for own in lost)


def test_macs_of_a_layer_are_its_weights_at_every_position():
    found = api.inspect(encoder(), NAMED)
    expected = {
        "stem": 32 * 3 * 9 * 16,
        "block.self_attn.in_proj": 96 * 32 * 16,
        "block.self_attn.out_proj": 32 * 32 * 16,
        "block.linear1": 64 * 32 * 16,
        "block.linear2": 64 * 32 * 16,
        "head": 320,
    }
    assert {name: (own.before, own.after) for name, own in found.layer_macs.items()} == {
        name: (macs, macs) for name, macs in expected.items()
    }


def test_macs_are_unknown_where_the_inputs_are(tmp_path, run):
    path = tmp_path / "m.pt"
    torch.save(encoder().state_dict(), path)
    code, out, _ = run("inspect", path, "--arch", "test_inspecting:encoder", "--json")
    assert code == 0
    layers = json.loads(out)["layers"]
    assert {layer["macs_before"] for layer in layers} == {None}
    code, _, err = run("inspect", path, "--arch", "test_inspecting:encoder", "--time")
    assert code == 2
    assert "what it takes as input is not known" in err
    assert "--input-shape" in err


def test_what_no_network_fits_cannot_be_timed(tmp_path, run):
    torch.save({"a.weight": torch.ones(2, 3)}, tmp_path / "m.pt")
    assert run("inspect", tmp_path / "m.pt")[0] == 0
    code, out, err = run("inspect", tmp_path / "m.pt", "--time")
    assert (code, out) == (2, "")
    assert "no known network" in err
    with pytest.raises(ArchitectureError):
        api.inspect(tmp_path / "m.pt", time=True)


def shape_of(tensor):
    return tuple(tensor.shape)


@pytest.fixture
def turns(monkeypatch):
    """Replace measuring: each input takes a part as many microseconds as it has weights."""
    made = []

    def fake(parts, device, seconds):
        assert device == CPU
        assert seconds > 0
        made.append({name: list(map(shape_of, given)) for name, (_, given) in parts.items()})
        return {
            name: np.full(3, 1e-6 * len(given) * sum(own.numel() for own in part.parameters()))
            for name, (part, given) in parts.items()
            if part(given[0]) is not None
        }

    monkeypatch.setattr(timed_layers, "time_parts", fake)
    return made


class Calls(nn.Module):
    """One layer called twice, two that are alike, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.twice = nn.Linear(8, 8, bias=False)
        self.unused = nn.Linear(8, 8)

    def forward(self, x):
        return self.two(self.twice(self.twice(self.one(x))))


def test_layers_are_timed_at_all_of_their_calls_and_once_if_they_are_alike(turns):
    before, after = Calls(), Calls()
    after.two = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 8))
    old, new = (Timed(own, trace(own, (8,))) for own in (before, after))
    events, names = [], ["one", "two", "twice", "unused"]
    found = layer_times(old, new, names, batch_size=5, device=CPU, progress=events.append)
    assert {name: (own.before_ms, own.after_ms) for name, own in found.items()} == {
        "one": (pytest.approx(0.072),) * 2,
        "two": (pytest.approx(0.072), pytest.approx(0.040)),
        "twice": (pytest.approx(0.128),) * 2,
    }
    once, twice = [(5, 8)], [(5, 8), (5, 8)]
    assert turns == [{"before": once}, {"before": once, "after": once}, {"before": twice}]
    assert [(event.task, event.done, event.total) for event in events] == [
        ("time", done, 3) for done in (1, 2, 3)
    ]


@pytest.mark.slow
def test_layers_without_filters_take_the_smaller_inputs(turns, digits, tmp_path, run):
    path = tmp_path / "small.pt"
    assert run("compress", digits / "model.pt", "-r", "0.3", "--method", "ft", "-o", path)[0] == 0
    found = api.inspect(path, time=True, device="cpu")
    assert all(own.after_ms < own.before_ms for own in found.times.layers.values())
    assert any(each["before"] != each["after"] for each in turns)


@pytest.mark.usefixtures("turns")
def test_an_original_is_timed_in_its_fastest_form_where_the_network_is(monkeypatch):
    small = compressed("alds", DIGITS)[1]
    seen = []

    def times(modules, *_, **__):
        seen.append([any(type(p) is nn.BatchNorm2d for p in m.modules()) for m in modules.values()])
        return {name: np.ones(3) for name in modules}

    def fastest(module, *_, **__):
        return SimpleNamespace(inference=Inference(foldable_norms(module)))

    monkeypatch.setattr(layer_costs, "time_networks", times)
    monkeypatch.setattr(fastest_form, "fastest_form", fastest)
    api.inspect(small, time=True, device="cpu")
    api.inspect(replace(small, inference=Inference(foldable_norms(small.module))), time=True)
    assert seen == [[True, True], [False, False]]


@pytest.mark.slow
def test_times_are_measured_and_told(digits, tmp_path, run):
    small = tmp_path / "small.pt"
    assert run("compress", digits / "model.pt", "-r", "0.5", "-o", small)[0] == 0
    code, out, _ = run("inspect", small, "--time", "--device", "cpu", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["latency"]["median_ms"] > 0
    assert told["latency_before"]["runs"] == told["latency"]["runs"]
    for layer in told["layers"]:
        assert layer["ms_before"] > 0
        assert (layer["ms_after"] == layer["ms_before"]) == layer["kept"]


@pytest.mark.usefixtures("turns")
@pytest.mark.parametrize("time", [False, True])
def test_the_table_fits_a_terminal(time, monkeypatch, tmp_path, run):
    """Names of a ResNet20, a layer in each row, no figure broken or missing."""
    network = architectures.build(architectures.parse_architecture("cifar_resnet20"))
    monkeypatch.chdir(tmp_path)
    torch.save(network.state_dict(), "m.pt")
    assert run("compress", "m.pt", "-r", "0.5", "-o", "small.pt")[0] == 0

    def times(modules, *_, **__):
        return dict.fromkeys(modules, np.ones(3))

    monkeypatch.setattr(layer_costs, "time_networks", times)
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("inspect", "small.pt", *(["--time"] if time else []))
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.strip().startswith("layer3.2.conv2"))
    found = api.inspect("small.pt")
    layer = next(own for own in found.layers if own.name == "layer3.2.conv2")
    assert short_count(layer.params_after) in row
    assert "2.36M" in row
    assert sum(line.strip().startswith("layer") for line in lines) == 18 + 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (2_359_296, "2.36M"),
        (None, "–"),
    ],
)
def test_short_numbers_have_three_digits(value, shown):
    assert short_count(value) == shown
