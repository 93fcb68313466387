"""Convolutions of every kind and geometry: pairs compute what the layers did, at known cost."""

from __future__ import annotations

import copy

import pytest
import torch
from decomposing import decompose, install_random, randomised, rank_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alds_cli.errors import PlanError
from alds_cli.numerics.fold import distinct_schemes, divisors, pair_macs, pair_params
from alds_cli.records import CLUSTERED, SCHEMES, Choice
from alds_cli.surgery import (
    dense_state,
    find_layers,
    layer_weight,
    require_fitting,
    reshape_network,
)
from alds_cli.tracing.trace import count_parameters, trace

PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def per_axis(draw, bounds):
    """One whole number for each axis, from 0 or from 1 up to the axis's bound."""
    return tuple(draw(st.integers(low, high)) for low, high in bounds)


def plain_geometry(draw, kernel):
    dilation = per_axis(draw, [(1, 3) for _ in kernel])
    if draw(st.integers(0, 3)) == 0:
        padding, stride = draw(st.sampled_from(["same", "valid"])), 1
    else:
        stride = per_axis(draw, [(1, 3) for _ in kernel])
        spread = [d * (e - 1) // 2 + 1 for d, e in zip(dilation, kernel, strict=True)]
        padding = per_axis(draw, [(0, s) for s in spread])
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    return {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": mode}


def transposed_geometry(draw, kernel):
    dilation = per_axis(draw, [(1, 3) for _ in kernel])
    stride = per_axis(draw, [(1, 3) for _ in kernel])
    spread = [(d * (e - 1) + 3) // 2 for d, e in zip(dilation, kernel, strict=True)]
    most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
    return {
        "stride": stride,
        "dilation": dilation,
        "padding": per_axis(draw, [(0, s) for s in spread]),
        "output_padding": per_axis(draw, [(0, m) for m in most]),
    }


@st.composite
def convolutions(draw):
    """(network of one convolution of any kind, sizes of its input, scheme, k)."""
    transposed = draw(st.booleans())
    dimensions = draw(st.integers(1, 3))
    kernel = per_axis(draw, [(1, 3)] * dimensions)
    geometry = (transposed_geometry if transposed else plain_geometry)(draw, kernel)
    groups = draw(st.sampled_from([1, 1, 2, 3, 6]))
    within = draw(st.sampled_from([1, 2, 3, 4]))
    layer = (TRANSPOSED if transposed else PLAIN)[dimensions](
        groups * within,
        groups * draw(st.integers(1, 3)),
        kernel,
        groups=groups,
        bias=draw(st.booleans()),
        **geometry,
    )
    least = 4 if transposed else 9
    sizes = per_axis(draw, [(least, least + 2)] * dimensions)
    sliced = {number: own for number, own in SCHEMES.items() if number != CLUSTERED}
    schemes = [n for n, s in sliced.items() if s.dimensions in {None, dimensions}]
    scheme = draw(st.sampled_from(schemes))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    return randomised(nn.Sequential(layer)), sizes, scheme, draw(st.sampled_from(divisors(within)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=300, deadline=None)
@given(convolutions())
def test_full_rank_pair_computes_what_the_convolution_did(case):
    network, sizes, scheme, k = case
    family = type(network[0])
    inputs = torch.randn(2, network[0].in_channels, *sizes, dtype=torch.float64)
    expected, alone = network(inputs), network(inputs[0])
    decompose(network, "0", scheme, k, rank_of(find_layers(network)["0"], scheme, k))
    found = network(inputs)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(network(inputs[0]), alone, rtol=1e-11, atol=1e-11)
    assert [type(half) for half in network[0]] == [family, family]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=200, deadline=None)
@given(convolutions(), st.integers(1, 3))
def test_pairs_of_any_rank(case, j):
    """Size and MACs as the formulas say; the product is what the pair computes; it reloads."""
    network, sizes, scheme, k = case
    original = copy.deepcopy(network)
    shape = (network[0].in_channels, *sizes)
    before = trace(network, shape)
    spec = find_layers(network, before)["0"]
    choice = Choice(scheme, k, j)
    install_random(network, "0", choice)

    bias = spec.params - spec.weight_params
    size = pair_params(spec.weight_shape, scheme, k, j, spec.groups)
    assert count_parameters(network) == size + bias
    assert trace(network, shape).macs == pair_macs(spec, before.calls["0"].shapes, choice)

    inputs = torch.randn(2, *shape, dtype=torch.float64)
    found = network(inputs)
    dense = dense_state(original, network.state_dict(), {"0": choice})
    assert {n: t.shape for n, t in dense.items()} == {
        n: t.shape for n, t in original.state_dict().items()
    }
    original.load_state_dict(dense)
    torch.testing.assert_close(original(inputs), found, rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=150, deadline=None)
@given(convolutions())
def test_what_shrinks_is_loaded_into_a_fresh_network(case):
    network, sizes, scheme, k = case
    spec = find_layers(network)["0"]
    choice = Choice(scheme, k, 1)
    smaller = pair_params(spec.weight_shape, scheme, k, 1, spec.groups) < spec.weight_params
    fresh = copy.deepcopy(network).to("meta")
    if not smaller or scheme not in distinct_schemes(spec.kernel):
        with pytest.raises(PlanError):
            reshape_network(fresh, {"0": choice})
        return
    decompose(network, "0", scheme, k, 1)
    reshape_network(fresh, {"0": choice})
    fresh.load_state_dict(network.state_dict(), assign=True)
    inputs = torch.randn(1, spec.in_channels, *sizes, dtype=torch.float64)
    assert torch.equal(fresh(inputs), network(inputs))


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 2)])
def test_the_weight_of_a_transposed_convolution_is_that_of_a_convolution(kernel, groups):
    """With stride 1 it is a convolution by the mirrored kernel."""
    layer = nn.ConvTranspose2d(12, 18, kernel, groups=groups, bias=False).double()
    spec = find_layers(nn.Sequential(layer))["0"]
    weight = layer_weight(layer)
    assert spec.weight_shape == tuple(weight.shape) == (18, 12 // groups, *kernel)
    inputs = torch.randn(2, 12, 5, 6, dtype=torch.float64)
    margins = tuple(extent - 1 for extent in kernel)
    found = nn.functional.conv2d(inputs, weight.flip(2, 3), padding=margins, groups=groups)
    torch.testing.assert_close(found, layer(inputs))


def test_groups_are_cut_each_for_itself():
    network = randomised(nn.Sequential(nn.Conv2d(12, 20, 3, groups=2)))
    install_random(network, "0", Choice(0, 3, 2))
    first, second = network[0]
    assert (first.groups, first.out_channels) == (6, 12)
    assert (second.groups, second.out_channels) == (2, 20)


def test_slices_divide_the_channels_of_a_group():
    specs = find_layers(nn.Sequential(nn.Conv2d(12, 20, 3, groups=2)))
    with pytest.raises(PlanError, match="its 6 input channels of each group"):
        require_fitting(specs, {"0": Choice(0, 4, 1)})
    require_fitting(specs, {"0": Choice(0, 3, 1)})
    with pytest.raises(PlanError, match="not between 1 and 10"):
        require_fitting(specs, {"0": Choice(0, 1, 11)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", [nn.Conv2d, nn.ConvTranspose2d])
def test_halves_have_the_type_of_the_layer(family, dtype):
    network = nn.Sequential(family(8, 8, 3, groups=2)).to(dtype)
    weight = layer_weight(network[0]).clone()
    original = copy.deepcopy(network)
    spec = find_layers(network)["0"]
    choice = Choice(1, 2, rank_of(spec, 1, 2))
    decompose(network, "0", 1, 2, choice.j)
    assert {p.dtype for p in network.parameters()} == {dtype}
    original.load_state_dict(dense_state(original, network.state_dict(), {"0": choice}))
    tolerance = 30 * torch.finfo(dtype).eps
    torch.testing.assert_close(layer_weight(original[0]), weight, rtol=0, atol=tolerance)


class Pyramid(nn.Module):
    """One layer applied to images of several sizes, as detection heads are."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def forward(self, image):
        return self.head(image).mean((2, 3)) + self.head(image[..., ::2, 1:]).mean((2, 3))


@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
def test_every_call_of_a_layer_is_priced_by_its_own_shape(scheme):
    network = Pyramid()
    before = trace(network, (8, 13, 9))
    spec = find_layers(network, before)["head"]
    install_random(network, "head", Choice(scheme, 2, 2))
    expected = pair_macs(spec, before.calls["head"].shapes, Choice(scheme, 2, 2))
    assert trace(network, (8, 13, 9)).macs == expected
