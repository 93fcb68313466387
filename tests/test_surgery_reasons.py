"""Layers that are more than they seem, and what keeps them out of pairs."""

from __future__ import annotations

import types
from functools import partial

import pytest
import torch
from decomposing import decompose
from torch import nn
from torch.nn.utils import parametrize, prune

from alds_cli import api
from alds_cli.errors import PlanError
from alds_cli.records import Choice
from alds_cli.surgery import (
    find_layers,
    layer_at,
    require_fitting,
    reshape_network,
)
from alds_cli.tracing.trace import trace

SIZE = 8


def layers():
    """One layer of every kind, by name."""
    return {
        "linear": nn.Linear(SIZE, SIZE),
        "conv1d": nn.Conv1d(SIZE, SIZE, 3),
        "conv2d": nn.Conv2d(SIZE, SIZE, 3),
        "conv3d": nn.Conv3d(SIZE, SIZE, 3),
        "up1d": nn.ConvTranspose1d(SIZE, SIZE, 3),
        "up2d": nn.ConvTranspose2d(SIZE, SIZE, 3),
        "up3d": nn.ConvTranspose3d(SIZE, SIZE, 3),
    }


def double(_module, _given, made):
    return 2 * made


def patched(layer, name="forward"):
    setattr(
        layer, name, types.MethodType(lambda self, rows: 3 * type(self).forward(self, rows), layer)
    )


CHANGES = {
    "forward hook": (lambda m: m.register_forward_hook(double), "a forward hook"),
    "pre-hook": (lambda m: m.register_forward_pre_hook(lambda _m, x: x), "a forward pre-hook"),
    "backward hook": (
        lambda m: m.register_full_backward_hook(lambda _m, _i, _o: None),
        "backward hook",
    ),
    "backward pre-hook": (
        lambda m: m.register_full_backward_pre_hook(lambda _m, _o: None),
        "backward pre-hook",
    ),
    "state-dict hook": (
        lambda m: m.register_state_dict_post_hook(lambda _m, _s, _p, _d: None),
        "state-dict hook",
    ),
    "state-dict pre-hook": (
        lambda m: m.register_state_dict_pre_hook(lambda _m, _p, _k: None),
        "state-dict pre-hook",
    ),
    "load hook": (
        lambda m: m.register_load_state_dict_pre_hook(lambda *_args: None),
        "loads its state dict",
    ),
    "forward": (patched, "its forward is replaced"),
    "call": (partial(patched, name="_call_impl"), "its _call_impl is replaced"),
    "parameter": (
        lambda m: m.register_parameter("scale", nn.Parameter(torch.ones(()))),
        "more than weight and bias (scale)",
    ),
    "buffer": (
        lambda m: m.register_buffer("mask", torch.ones(SIZE)),
        "more than weight and bias (mask)",
    ),
    "module": (
        lambda m: m.add_module("norm", nn.LayerNorm(SIZE)),
        "more than weight and bias (norm)",
    ),
    "tensor": (
        lambda m: setattr(m, "shift", torch.ones(SIZE)),
        "more than weight and bias (shift)",
    ),
    "function": (lambda m: setattr(m, "act", torch.relu), "more than weight and bias (act)"),
    "wider weight": (
        lambda m: setattr(m, "weight", nn.Parameter(torch.cat([m.weight, m.weight]))),
        "other shapes",
    ),
    "scalar bias": (lambda m: setattr(m, "bias", nn.Parameter(torch.ones(1))), "other shapes"),
    "pruned weight": (lambda m: prune.identity(m, "weight"), "masked"),
    "pruned bias": (lambda m: prune.identity(m, "bias"), "masked"),
    "parametrization": (
        lambda m: parametrize.register_parametrization(m, "weight", nn.Identity()),
        "computed by a parametrization",
    ),
}


@pytest.mark.parametrize("kind", layers())
@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_is_more_than_plain_is_kept(kind, change):
    network = nn.Sequential(layers()[kind], layers()[kind])
    change, reason = CHANGES[change]
    change(network[0])
    found = find_layers(network)
    assert reason in found["0"].reason
    assert found["1"].reason is None
    with pytest.raises(PlanError, match="must be kept"):
        require_fitting(found, {"0": Choice(0, 1, 1)})


@pytest.mark.parametrize("kind", layers())
def test_marks_that_others_leave_on_layers_keep_nothing(kind):
    network = nn.Sequential(layers()[kind])
    network[0]._is_initialized = True
    network[0].lr_factor = 0.1
    network[0].role = "head"
    assert find_layers(network)["0"].reason is None


@pytest.mark.parametrize(
    "holder",
    [
        lambda layer: layer,
        lambda layer: [layer],
        lambda layer: (1, layer),
        lambda layer: {"first": layer},
        lambda layer: {"first": [(layer,)]},
    ],
)
def test_a_layer_that_is_held_in_a_plain_container_too_is_kept(holder):
    network = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE))
    network.__dict__["others"] = holder(network[0])
    found = find_layers(network)
    assert "list or dictionary" in found["0"].reason
    assert found["1"].reason is None


@pytest.mark.parametrize(
    "change",
    ["forward hook", "pre-hook", "parameter", "buffer", "tensor", "call"],
)
@pytest.mark.parametrize("part", ["attention", "out_proj"])
def test_an_attention_that_is_more_than_plain_is_kept_whole(change, part):
    network = nn.ModuleDict({"attention": nn.MultiheadAttention(SIZE, 2)})
    attention = network["attention"]
    change, reason = CHANGES[change]
    change(attention if part == "attention" else attention.out_proj)
    found = find_layers(network)
    assert reason in found["attention.in_proj"].reason
    assert reason in found["attention.out_proj"].reason


class Reading(nn.Module):
    """A network whose code does something with one of its layers besides calling it."""

    def __init__(self, look):
        super().__init__()
        self.look = look
        self.layer, self.other = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)

    def forward(self, rows):
        self.look(self, rows)
        return self.other(self.layer(rows))


def looks_by_iteration(network, _rows):
    for part in network.modules():
        if isinstance(part, nn.Linear) and part is network.layer:
            part.weight.abs()


READING = {
    "type": (lambda n, x: x.to(n.layer.weight.dtype), "weight"),
    "bias": (lambda n, _x: n.layer.bias is None, "bias"),
    "size": (lambda n, x: x.reshape(-1, n.layer.in_features), "in_features"),
    "getattr": (lambda n, _x: getattr(n.layer, "weight", None), "weight"),
    "hasattr": (lambda n, _x: hasattr(n.layer, "out_features"), "out_features"),
    "isinstance": (lambda n, _x: isinstance(n.layer, nn.Linear), "type"),
    "class": (lambda n, _x: n.layer.__class__.__name__, "type"),
    "state dict": (lambda n, _x: n.layer.state_dict()["weight"], "state_dict"),
    "named": (lambda n, _x: dict(n.layer.named_parameters())["weight"], "named_parameters"),
    "iteration": (looks_by_iteration, "type"),
    "by name": (lambda n, _x: n.get_parameter("layer.weight"), "weight"),
    "vars": (lambda n, _x: vars(n.layer), "__dict__"),
}


@pytest.mark.parametrize("way", READING)
def test_a_layer_whose_attributes_the_code_reads_is_kept(way):
    look, what = READING[way]
    network = Reading(look).eval()
    spec = find_layers(network, trace(network, (SIZE,)))["layer"]
    assert what in spec.reason
    assert "READING" not in spec.reason


HARMLESS = {
    "parameters": lambda n, x: x.to(next(n.layer.parameters()).dtype),
    "mode": lambda n, _x: n.layer.training,
    "absent": lambda n, _x: hasattr(n.layer, "lora"),
    "hooks": lambda n, _x: len(n.layer._forward_hooks),
    "children": lambda n, _x: list(n.children()),
    "whole": lambda n, x: n.to(x.dtype),
    "its parent's state": lambda n, _x: [tensor.dtype for tensor in n.state_dict().values()],
    "shown": lambda n, _x: repr(n),
}


@pytest.mark.parametrize("way", HARMLESS)
def test_what_a_pair_can_be_asked_as_well_keeps_nothing(way):
    network = Reading(HARMLESS[way]).eval()
    specs = find_layers(network, trace(network, (SIZE,)))
    assert [spec.reason for spec in specs.values()] == [None, None]
    decompose(network, "layer", 0, 1, 2)
    network(torch.zeros(1, SIZE))


def test_what_is_read_is_seen_where_the_network_runs_only_for_real():
    def look(network, rows):
        rows.sum().item()  # the meta device has no number to give
        return network.layer.weight.dtype

    network = Reading(look).eval()
    kinds = {name: type(part) for name, part in network.named_modules()}
    attributes = {name: set(vars(part)) for name, part in network.named_modules()}
    found = find_layers(network, trace(network, (SIZE,)))
    assert "reads its weight (" in found["layer"].reason
    assert "look)" in found["layer"].reason
    assert found["other"].reason is None
    assert {name: type(part) for name, part in network.named_modules()} == kinds
    assert {name: set(vars(part)) for name, part in network.named_modules()} == attributes


def test_code_that_insists_on_the_layers_types_can_be_traced():
    def look(network, _rows):
        if type(network.layer) is not nn.Linear:
            raise TypeError("no linear layer")

    network = Reading(look).eval()
    seen = trace(network, (SIZE,))
    assert set(seen.calls) == {"layer", "other"}
    assert seen.macs == 2 * SIZE * SIZE


def test_a_network_that_fails_is_left_as_it_was():
    def look(_network, _rows):
        raise RuntimeError("no")

    network = Reading(look).eval()
    assert trace(network, (SIZE,)).macs is None
    assert type(network.layer) is nn.Linear
    assert set(vars(network.layer)) == set(vars(nn.Linear(1, 1)))


@pytest.mark.parametrize("look", [lambda a: a.in_proj_weight.dtype, lambda a: a.out_proj.weight])
def test_an_attention_whose_weights_the_code_reads_is_kept(look):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(SIZE, 2, batch_first=True)

        def forward(self, rows):
            look(self.attention)
            return self.attention(rows, rows, rows)[0]

    network = Attending().eval()
    specs = find_layers(network, trace(network, (3, SIZE)))
    assert all("the network's code reads" in spec.reason for spec in specs.values())


@pytest.mark.parametrize("norm_first", [True, False])
def test_what_pytorch_reads_for_its_fused_kernels_keeps_nothing(norm_first):
    layer = nn.TransformerEncoderLayer(SIZE, 2, 16, batch_first=True, norm_first=norm_first)
    network = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval()
    specs = find_layers(network, trace(network, (3, SIZE)))
    assert len(specs) == 8
    assert all(spec.reason is None for spec in specs.values())


RECURRENT = {
    "LSTM": (nn.LSTM(5, 6, 2, bidirectional=True, proj_size=3, batch_first=True), 12),
    "GRU": (nn.GRU(5, 6, bias=False, batch_first=True), 2),
    "RNN": (nn.RNN(5, 6, 2, batch_first=True), 4),
    "LSTMCell": (nn.LSTMCell(5, 6), 2),
    "GRUCell": (nn.GRUCell(5, 6, bias=False), 2),
    "RNNCell": (nn.RNNCell(5, 6), 2),
}


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("inside", [True, False])
def test_matrices_of_recurrent_layers_are_shown_and_kept(kind, inside):
    layer, count = RECURRENT[kind]
    network = nn.ModuleDict({"part": layer}) if inside else layer
    specs = find_layers(network)
    assert len(specs) == count
    assert sum(spec.params for spec in specs.values()) == sum(p.numel() for p in layer.parameters())
    for name, spec in specs.items():
        assert name.startswith("part.weight_" if inside else "weight_")
        assert "recurrent" in spec.reason
        weight = layer_at(network, name).weight
        assert weight is network.get_parameter(name)
        assert tuple(weight.shape) == spec.weight_shape
    with pytest.raises(PlanError, match="recurrent"):
        require_fitting(specs, dict.fromkeys(specs, Choice(0, 1, 1)))


def test_a_subclass_of_the_same_name_is_told_by_its_module():
    class Linear(nn.Linear):
        pass

    reason = find_layers(nn.Sequential(Linear(SIZE, SIZE)))["0"].reason
    assert reason == f"{__name__}.Linear may do more than a plain linear layer"


def test_a_plan_for_plain_layers_fits_a_network_that_was_not_run():
    def build():
        network = Reading(READING["type"][0])
        network.third = nn.Linear(SIZE, SIZE)
        network.third.register_forward_hook(double)
        return network

    reshape_network(build(), {"other": Choice(0, 1, 2)})
    with pytest.raises(PlanError, match="forward hook"):
        reshape_network(build(), {"third": Choice(0, 1, 2)})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "edgenext_xx_small"])
def test_real_networks_that_read_a_weight_for_its_type_keep_that_layer_alone(name, tmp_path):
    timm = pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    torch.save(network.state_dict(), tmp_path / "dense.pt")
    source = api.Source(arch=f"timm:{name}")
    result = api.compress(tmp_path / "dense.pt", source, ratio=0.4, output=tmp_path / "small.pt")
    assert result.report.ratio >= 0.4
    reading = [layer for layer in result.report.layers if "code reads" in (layer.reason or "")]
    assert ["its weight" in str(layer.reason) for layer in reading] == [True]
    assert all(layer.choice is None for layer in reading)
    small = api.load(tmp_path / "small.pt", arch=f"timm:{name}")
    with torch.inference_mode():
        image = torch.randn(1, 3, 224, 224)
        assert small(image).shape == network(image).shape
