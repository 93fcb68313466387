"""Convolutions whose weights lie as oneDNN computes with them give what ordinary ones give."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alds_cli.surgery import packed_convolutions
from alds_cli.surgery.packed_convolutions import PackedConv2d, can_pack, pack_convolutions


def convolution(**options):
    torch.manual_seed(0)
    return nn.Conv2d(8, 12, 3, **options).requires_grad_(False)


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    last=st.booleans(),
    sizes=st.lists(
        st.tuples(st.integers(1, 3), st.integers(7, 10), st.integers(7, 10)), min_size=1, max_size=3
    ),
)
def test_any_geometry_and_changing_sizes(
    kernel, stride, padding, dilation, groups, bias, last, sizes
):
    layer = nn.Conv2d(8, 12, kernel, stride, padding, dilation, groups, bias).requires_grad_(False)
    packed = PackedConv2d(layer)
    for batch, height, width in sizes:
        inputs = torch.randn(batch, 8, height, width)
        if last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            same(packed(inputs), layer(inputs))
        assert packed._packing is not None


def test_parts_of_tensors_are_taken():
    layer = convolution()
    inputs = torch.randn(2, 10, 18, 9)[:, 1:9, ::2]
    with torch.no_grad():
        same(PackedConv2d(layer)(inputs), layer(inputs))


def test_changed_weights_count():
    layer = convolution()
    packed, inputs = PackedConv2d(layer), torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        packed(inputs)
        layer.weight.mul_(2)
        same(packed(inputs), layer(inputs))
        packed.load_state_dict(convolution().state_dict())
        same(packed(inputs), convolution()(inputs))


def test_copies_and_pickles_leave_the_order_out():
    packed, inputs = PackedConv2d(convolution()), torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        expected = packed(inputs)
        for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
            assert other._packing is None
            same(other(inputs), expected)


def test_gradients_other_types_and_autocast_take_the_ordinary_way(monkeypatch):
    layer = convolution().requires_grad_(True)
    packed, inputs = PackedConv2d(layer), torch.randn(1, 8, 6, 6)
    packed(inputs).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        wide = PackedConv2d(copy.deepcopy(layer).double())
        same(wide(inputs.double()), copy.deepcopy(layer).double()(inputs.double()))
        with torch.autocast("cpu", torch.bfloat16):
            assert packed(inputs).dtype == torch.bfloat16
        assert packed(inputs[:0]).shape == (0, 12, 4, 4)
        assert (packed._packing, wide._packing) == (None, None)
        monkeypatch.setattr(packed_convolutions, "_operators", lambda: None)
        same(packed(inputs), layer(inputs))
    assert packed._packing is None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_it_can_be_compiled_to_torchscript():
    packed, inputs = PackedConv2d(convolution()), torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        same(torch.jit.script(packed)(inputs), packed(inputs))


def test_modules_in_several_places_stay_one():
    layer = convolution(padding=1)
    network = nn.Sequential(layer, nn.Sequential(nn.Conv2d(12, 8, 1), layer))
    packed = pack_convolutions(network)
    assert packed is network
    assert packed[0] is packed[1][1]
    assert all(type(part) is not nn.Conv2d for part in packed.modules())
    assert isinstance(pack_convolutions(convolution()), PackedConv2d)


@pytest.mark.parametrize(
    "layer",
    [
        convolution(padding_mode="circular", padding=1),
        convolution(padding="same"),
        convolution().double(),
        nn.Conv1d(3, 4, 3),
        PackedConv2d(convolution()),
    ],
)
def test_others_are_left_alone(layer):
    assert not can_pack(layer)
    assert pack_convolutions(layer) is layer
