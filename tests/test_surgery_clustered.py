"""Clustered pairs against the layers they stand for, and what is not offered or not accepted."""

from __future__ import annotations

import copy

import pytest
import torch
from decomposing import randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alds_cli.errors import BadWeightsError, PlanError
from alds_cli.numerics.clustering.clustered_factors import multiply_clusters
from alds_cli.numerics.fold import pair_macs, pair_params, unfold
from alds_cli.records import CLUSTERED, Choice
from alds_cli.surgery import (
    ClusteredConv2d,
    ClusteredLinear,
    dense_state,
    find_layers,
    form_of,
    install_pair,
    make_pair,
    require_fitting,
    reshape_network,
)
from alds_cli.tracing.trace import count_parameters, meta_copy, trace


def random_clusters(spec, k, j, generator):
    """Tensors of a clustered pair: any partition, any weights."""
    columns = spec.weight_params // spec.out_channels
    cuts = torch.randperm(columns - 1, generator=generator)[: k - 1].sort().values + 1
    bounds = torch.cat([torch.tensor([0]), cuts, torch.tensor([columns])])
    return (
        torch.randn(j, columns, dtype=torch.float64, generator=generator),
        torch.randn(spec.out_channels, k * j, dtype=torch.float64, generator=generator),
        torch.randperm(columns, generator=generator).to(torch.int32),
        bounds.diff().to(torch.int32),
    )


def install_clusters(network, name, k, j, seed=0):
    spec = find_layers(network)[name]
    tensors = random_clusters(spec, k, j, torch.Generator().manual_seed(seed))
    install_pair(network, name, Choice(CLUSTERED, k, j), tensors)
    return tensors


def stood_for(tensors, shape):
    """The dense weight, entry by entry."""
    first, second, order, sizes = tensors
    j = len(first)
    dense = torch.zeros(len(second), first.shape[1], dtype=torch.float64)
    at = 0
    for cluster, size in enumerate(sizes.tolist()):
        for _ in range(size):
            column = second[:, cluster * j : (cluster + 1) * j] @ first[:, at]
            dense[:, order[at]] = column
            at += 1
    return dense.reshape(shape)


@st.composite
def convolutions(draw):
    """(network of one convolution of images, sizes of its input)."""
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    if draw(st.integers(0, 2)) == 0:
        padding, stride = draw(st.sampled_from(["same", "valid"])), (1, 1)
    else:
        padding = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
        stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    layer = nn.Conv2d(
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        padding_mode=mode,
        bias=draw(st.booleans()),
    )
    torch.manual_seed(draw(st.integers(0, 2**31)))
    sizes = (draw(st.integers(7, 10)), draw(st.integers(7, 10)))
    return randomised(nn.Sequential(layer)), sizes


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=80, deadline=None)
@given(convolutions(), st.data())
def test_a_clustered_convolution_is_the_convolution_of_its_product(case, data):
    """With its size and its MACs as the formulas say, to the unit."""
    network, sizes = case
    original = copy.deepcopy(network)
    shape = (network[0].in_channels, *sizes)
    before = trace(network, shape)
    spec = find_layers(network)["0"]
    k = data.draw(st.integers(1, spec.weight_params // spec.out_channels))
    choice = Choice(CLUSTERED, k, data.draw(st.integers(1, 3)))
    tensors = install_clusters(network, "0", choice.k, choice.j)

    dense = dense_state(original, network.state_dict(), {"0": choice})
    expected = stood_for(tensors, spec.weight_shape)
    torch.testing.assert_close(dense["0.weight"], expected, rtol=1e-12, atol=1e-12)
    original.load_state_dict(dense)
    inputs = torch.randn(2, *shape, dtype=torch.float64)
    torch.testing.assert_close(network(inputs), original(inputs), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(network(inputs[0]), original(inputs[0]), rtol=1e-11, atol=1e-11)

    size = pair_params(spec.weight_shape, CLUSTERED, choice.k, choice.j)
    assert count_parameters(network) == size + (spec.params - spec.weight_params)
    assert trace(network, shape).macs == pair_macs(spec, before.calls["0"].shapes, choice)


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12)])
@pytest.mark.parametrize("k", [1, 3, 5, 12])
def test_a_clustered_linear_layer_is_the_linear_layer_of_its_product(shape, k):
    network = randomised(nn.Sequential(nn.Linear(12, 20)))
    original = copy.deepcopy(network)
    before = trace(network, shape)
    spec = find_layers(network)["0"]
    choice = Choice(CLUSTERED, k, 2)
    tensors = install_clusters(network, "0", k, 2)
    with torch.no_grad():
        original[0].weight.copy_(stood_for(tensors, (20, 12)))
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    torch.testing.assert_close(network(inputs), original(inputs), rtol=1e-11, atol=1e-11)
    assert trace(network, shape).macs == pair_macs(spec, before.calls["0"].shapes, choice)
    assert count_parameters(network) == 2 * (k * 20 + 12) + 20


def test_a_packed_projection_may_have_clusters():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, rows):
            return self.attention(rows, rows, rows)[0] + self.attention(rows, rows * 2, rows)[0]

    network = randomised(Attends()).eval()
    original = copy.deepcopy(network)
    choice = Choice(CLUSTERED, 3, 1)
    install_clusters(network, "attention.in_proj", 3, 1)
    original.load_state_dict(
        dense_state(original, network.state_dict(), {"attention.in_proj": choice})
    )
    rows = torch.randn(2, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(network(rows), original(rows), rtol=1e-11, atol=1e-11)


def test_the_product_is_that_of_the_runs():
    """`multiply_clusters` against a pair given the unit vectors one by one."""
    network = randomised(nn.Sequential(nn.Linear(9, 4, bias=False)))
    first, second, order, sizes = install_clusters(network, "0", 4, 2)
    product = multiply_clusters(first, second, order, sizes.tolist())
    torch.testing.assert_close(network(torch.eye(9, dtype=torch.float64)).T, product)


def small_network():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)
    )


CHOICES = {"0": Choice(CLUSTERED, 3, 2), "3": Choice(CLUSTERED, 5, 1)}


def clustered_network():
    torch.manual_seed(1)
    network = small_network()
    for seed, (name, choice) in enumerate(CHOICES.items()):
        install_clusters(network, name, choice.k, choice.j, seed)
    return network.eval()


def skeleton():
    with torch.device("meta"):
        fresh = small_network()
    reshape_network(fresh, CHOICES)
    return fresh


@pytest.mark.parametrize("assign", [True, False])
def test_state_dict_survives_reshaping_a_fresh_network(assign):
    network = clustered_network()
    fresh = skeleton()
    state = network.state_dict()
    assert {n: (t.shape, t.dtype) for n, t in fresh.state_dict().items()} == {
        n: (t.shape, t.dtype) for n, t in state.items()
    }
    if not assign:
        fresh = fresh.to_empty(device="cpu")
    fresh.load_state_dict(state, assign=assign)
    inputs = torch.randn(3, 4, 6, 5)
    torch.testing.assert_close(fresh.eval()(inputs), network(inputs), rtol=0, atol=0)


def test_shapes_without_values_can_be_copied_and_run():
    """Where a file's size and a network's MACs are foreseen."""
    fresh = skeleton()
    again = copy.deepcopy(fresh)
    hollow = meta_copy(clustered_network())
    for module in (fresh, again, hollow):
        assert module(torch.empty(1, 4, 6, 5, device="meta")).shape == (1, 10)
    assert hollow.get_submodule("0.first").lengths == clustered_network()[0].first.lengths


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_order_is_not_converted(dtype):
    network = clustered_network().to(dtype)
    assert network[0].first.order.dtype == torch.int32
    assert network[0].first.weight.dtype == dtype
    inputs = torch.randn(1, 4, 6, 5).to(dtype)
    assert network(inputs).dtype == dtype


def test_a_new_pair_runs_as_it_is():
    """Such as those whose time is taken."""
    pair = make_pair(nn.Conv2d(4, 8, 3, padding=1), Choice(CLUSTERED, 5, 2), "cpu")
    assert pair(torch.randn(1, 4, 6, 6)).shape == (1, 8, 6, 6)
    assert pair.first.sizes.tolist() == [8, 7, 7, 7, 7] == pair.first.lengths
    assert torch.equal(pair.first.order, torch.arange(36, dtype=torch.int32))
    assert "clusters=[8, 7, 7, 7, 7]" in repr(pair)


def test_gradients_reach_both_halves():
    network = clustered_network()
    network(torch.randn(2, 4, 6, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_torch_exports_it():
    network = clustered_network()
    inputs = torch.randn(3, 4, 6, 5)
    program = torch.export.export(network, (inputs,))
    torch.testing.assert_close(program.module()(inputs), network(inputs))


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_torchscript_compiles_it():
    network = clustered_network()
    compiled = torch.jit.script(network)
    for batch in (1, 3):
        inputs = torch.randn(batch, 4, 6, 5)
        torch.testing.assert_close(compiled(inputs), network(inputs))


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize("padding", [0, (1, 2), "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_torchscript_compiles_every_geometry(padding, mode):
    dilated = nn.Conv2d(3, 4, (3, 2), padding=padding, padding_mode=mode, dilation=(1, 2))
    layer = ClusteredConv2d(dilated, 4, 2)
    compiled = torch.jit.script(layer)
    for shape in ((3, 7, 8), (2, 3, 7, 8)):
        image = torch.randn(shape)
        if mode == "zeros" or len(shape) == 4:
            torch.testing.assert_close(compiled(image), layer(image))


DAMAGE = {
    "twice the same column": ("order", lambda t: t.clone().fill_(0), "no permutation"),
    "a column too far": ("order", lambda t: t + 1, "no permutation"),
    "negative": ("order", lambda t: t - 1, "no permutation"),
    "an empty cluster": (
        "sizes",
        lambda t: torch.cat([t[:1] * 0, t[:1] + t[1:2], t[2:]]),
        "clusters have",
    ),
    "too few": ("sizes", lambda t: t - 1, "clusters have"),
    "fractions": ("sizes", lambda t: t.float(), "counted by torch.float32"),
    "truths": ("order", lambda t: t > 0, "numbered by torch.bool"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["0", "3"])
def test_what_is_no_partition_is_refused(damage, name):
    kind, spoil, complaint = DAMAGE[damage]
    state = clustered_network().state_dict()
    state[f"{name}.first.{kind}"] = spoil(state[f"{name}.first.{kind}"])
    with pytest.raises(BadWeightsError, match=f"{name}.first: .*{complaint}"):
        skeleton().load_state_dict(state, assign=True)
    with pytest.raises(BadWeightsError, match=f"{name}.first: .*{complaint}"):
        dense_state(small_network(), state, CHOICES)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), "2 groups"),
        (nn.Conv1d(8, 8, 3), "conv1d"),
        (nn.Conv3d(8, 8, 3), "conv3d"),
        (nn.ConvTranspose2d(8, 8, 3), "conv_transpose2d"),
    ],
)
def test_other_layers_have_no_clusters(layer, reason):
    specs = find_layers(nn.Sequential(layer))
    assert reason in form_of(CLUSTERED).reason_against(specs["0"])
    with pytest.raises(PlanError, match=f"0: .*{reason}"):
        require_fitting(specs, {"0": Choice(CLUSTERED, 2, 1)})


@pytest.mark.parametrize(
    ("k", "j", "complaint"),
    [
        (0, 1, "k = 0 is not between 1 and its 36 columns"),
        (37, 1, "k = 37 is not between 1 and its 36 columns"),
        (3, 0, "j = 0 is not between 1 and 8"),
        (3, 9, "j = 9 is not between 1 and 8"),
        (34, 4, "j = 4 is not between 1 and 3"),
        (3, 5, "would have 300 weights"),
    ],
)
def test_impossible_clusters_are_named(k, j, complaint):
    specs = find_layers(nn.Sequential(nn.Conv2d(4, 8, 3)))
    with pytest.raises(PlanError, match=complaint):
        require_fitting(specs, {"0": Choice(CLUSTERED, k, j)})


def test_the_number_of_clusters_need_not_divide_anything():
    specs = find_layers(small_network())
    require_fitting(specs, CHOICES)
    assert unfold(torch.zeros(8, 36), (8, 4, 3, 3), CLUSTERED).shape == (8, 4, 3, 3)
    assert isinstance(clustered_network()[0].first, ClusteredConv2d)
    assert type(clustered_network()[3].first) is ClusteredLinear
