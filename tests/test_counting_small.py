"""A small network traced on numbers is told as on the meta device, or not at all."""

from __future__ import annotations

import copy

import pytest
import tiny_transformers
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from alds_cli.inputs import as_inputs, parse_inputs
from alds_cli.tracing import trace, watching
from alds_cli.tracing.watching import SmallCounter, UncountedError


def same_both_ways(network, inputs):
    """The trace of a network, which both ways tell alike."""
    spec = as_inputs(inputs)
    small = trace._trace_small(network, spec)
    assert small == trace._trace_large(network, spec)
    assert small.macs is not None
    return small


class Computes(nn.Module):
    """A network whose forward pass is a function, with a layer in front of it."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(7, 5), (7,)),
        (nn.Linear(7, 5, bias=False), (2, 3, 7)),
        (nn.Bilinear(4, 4, 3), (4,)),
        (nn.MultiheadAttention(8, 2, batch_first=True), (5, 8)),
        (nn.MultiheadAttention(8, 2, kdim=8, vdim=8, add_bias_kv=True, batch_first=True), (5, 8)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
        (nn.TransformerEncoderLayer(8, 2, 16, norm_first=True), (5, 8)),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2), (5, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular")), (3, 9, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same", dilation=3)), (3, 15, 18)),
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (3, 6, 5)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="bicubic")), (3, 5, 5)),
    ],
)  # fmt: skip
def test_layers(layer, shape):
    if isinstance(layer, (nn.MultiheadAttention, nn.Bilinear)):
        count = 2 if isinstance(layer, nn.Bilinear) else 3
        layer = Takes(layer, count)
    same_both_ways(layer, shape)


class Takes(nn.Module):
    """A layer that is given its input several times."""

    def __init__(self, layer, count):
        super().__init__()
        self.layer, self.count = layer, count

    def forward(self, x):
        return self.layer(*[x] * self.count)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_convolutions(data):
    axes = data.draw(st.integers(1, 3), "axes")
    groups = data.draw(st.integers(1, 3), "groups")
    transposed = data.draw(st.booleans(), "transposed")
    kind = getattr(nn, f"Conv{'Transpose' * transposed}{axes}d")

    def each(least, most):
        return data.draw(st.tuples(*[st.integers(least, most)] * axes))

    size, kernel, stride, dilation = each(7, 12), each(1, 3), each(1, 3), each(1, 2)
    layer = kind(
        groups * data.draw(st.integers(1, 3)),
        groups * data.draw(st.integers(1, 3)),
        kernel,
        stride=stride,
        padding=each(0, 1),
        dilation=dilation,
        groups=groups,
        bias=data.draw(st.booleans()),
    )
    found = same_both_ways(nn.Sequential(layer), (layer.in_channels, *size))
    assert found.macs == found.calls["0"].macs > 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.einsum("bij,bkj->bik", x, x),
        lambda x: torch.einsum("bij,bkj,bkl->il", x, x, x),
        lambda x: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.5),
        lambda x: torch.addmm(x[0, :, :1], x[0], x[0].T),
        lambda x: torch.addbmm(x[0] @ x[0].T, x, x.mT) if x.is_meta else x @ x.mT,
        lambda x: x @ x[0, 0],
        lambda x: x[0, 0] @ x[0, 1],
        lambda x: x[0, 0] @ x[0].T,
        lambda x: torch.tensordot(x, x, dims=([2], [2])),
        lambda x: torch.linalg.multi_dot([x[0], x[0].T, x[0]]),
        lambda x: torch.matmul(x[:, None], x.mT[:, None].expand(-1, 3, -1, -1)),
        lambda x: torch.cdist(x, x),
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
        lambda x: F.conv1d(x, torch.ones(2, x.shape[1], 2, device=x.device)),
        lambda x: F.conv1d(x[0], torch.ones(2, x.shape[1], 2, device=x.device)),
        lambda x: F.bilinear(x, x, torch.ones(2, 4, 4, device=x.device)),
        lambda x: torch.mm(x[0], x[0].T, out=torch.empty(5, 5, device=x.device)),
        lambda x: F.gelu(F.layer_norm(x, (4,))).softmax(-1).cumsum(1).sort().values,
        lambda x: F.interpolate(x, scale_factor=2, mode="linear"),
        lambda x: torch.cat([x, torch.rand_like(x)]).sigmoid().bernoulli() @ x[0].T,
    ],
)
def test_functions(function):
    same_both_ways(Computes(function), (5, 4))


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "mnasnet0_5", "resnet18",
     "regnet_y_400mf", "efficientnet_b0"],
)  # fmt: skip
def test_networks_of_torchvision(name):
    torch.manual_seed(0)
    same_both_ways(torchvision.models.get_model(name), (3, 64, 64))


# Mixtral's experts are products of another kind, which are left to PyTorch's own counter.
@pytest.mark.parametrize("name", sorted({*tiny_transformers.TINY} - {"tiny_transformers:mixtral"}))
def test_transformers(name):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    try:
        network = getattr(tiny_transformers, name.partition(":")[2])()
    except ValueError as error:  # transformers 5.0 makes no DETR without pretrained weights
        pytest.skip(str(error))
    same_both_ways(network, parse_inputs(tiny_transformers.TINY[name]))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.LSTM(4, 3, batch_first=True), "may hold products"),
        (nn.Linear(4, 2).double(), "other ways"),
        (nn.Linear(4, 2).to("meta"), "other ways"),
        (Computes(lambda x: F.conv1d(x.bfloat16(), x.bfloat16().mT).float()), None),
        (Computes(lambda x: torch._int_mm(x[0].char(), x[0].char().T)), "may hold products"),
        (Computes(lambda x: torch.addbmm(x[0] @ x[0].T, x, x.mT)), "may hold products"),
        (nn.Sequential(*(nn.Linear(4, 1 << 21), nn.Linear(1 << 21, 4))), "large"),
    ],
)
def test_what_cannot_be_counted_surely_is_not(network, reason):
    if reason is None:
        same_both_ways(network, (4, 4))
        return
    with pytest.raises(UncountedError, match=reason):
        trace._trace_small(network, as_inputs((5, 4)))


def test_no_branch_is_taken_for_the_whole():
    network = Computes(lambda x: torch.cond(x.sum() > 0, lambda y: y @ y.mT, lambda y: y, (x,)))
    with pytest.raises(Exception, match=r"."):
        trace._trace_small(network, as_inputs((5, 4)))


def test_more_than_the_allowed_products_end_the_run():
    network, x = nn.Linear(4, 4).requires_grad_(requires_grad=False), torch.ones(1, 4)
    with SmallCounter(32) as counter:
        network(network(x))
    assert counter.get_total_flops() == 64
    with pytest.raises(UncountedError, match="more than 31"), SmallCounter(31):
        network(network(x))


def test_every_operator_that_is_counted_elsewhere_is_known_or_suspect():
    for packet in flop_registry:
        name = str(packet)
        if name.startswith("aten."):
            known = packet in watching._FORMULAS
            assert known or any(part in name for part in watching._SUSPECT), name


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    beside=st.lists(st.integers(1, 3), max_size=2),
    bias=st.booleans(),
)
def test_products_are_counted_as_by_pytorch_on_the_same_run(shape, beside, bias):
    a, b, c, d = shape
    left = torch.ones(*beside, a, b)
    layer = nn.Linear(b, c, bias=bias).requires_grad_(requires_grad=False)

    def run():
        made = layer(left)
        return made @ torch.ones(c, d) + torch.einsum("...ij,kj->...ik", left, torch.ones(d, b))

    with SmallCounter(1 << 20) as own, torch.no_grad():
        run()
    with FlopCounterMode(display=False) as other, torch.no_grad():
        run()
    assert own.get_total_flops() == other.get_total_flops() > 0


def test_the_network_and_the_random_numbers_are_left_as_they_were():
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("seen", torch.zeros(1))
            self.calls = []

        def forward(self, x):
            self.seen += 1
            self.calls.append(1)
            return self.layer(x + torch.rand(4))

    network = Drawing().train()
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    fused = torch.backends.mha.get_fastpath_enabled()
    assert trace._trace_small(network, as_inputs((4,))).macs == 16
    assert torch.equal(state, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled() is fused
    assert network.training
    assert network.calls == []
    assert all(p.requires_grad for p in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
