"""Networks of pairs against the layers they replace."""

from __future__ import annotations

import pytest
import torch
from decomposing import decompose
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from alds_cli.errors import PlanError
from alds_cli.numerics.fold import divisors, full_rank
from alds_cli.records import Choice
from alds_cli.surgery import (
    SlicedLinear,
    dense_state,
    find_layers,
    require_fitting,
    reshape_network,
)
from alds_cli.tracing.trace import trace


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([1, 2, 6, 12]),
    st.integers(1, 9),
    st.booleans(),
    st.data(),
)
def test_full_rank_pair_computes_what_the_linear_layer_did(inputs, outputs, bias, data):
    k = data.draw(st.sampled_from(divisors(inputs)))
    network = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    batch = torch.randn(5, inputs)
    expected, alone = network(batch), network(batch[0])
    decompose(network, "0", 0, k, full_rank((outputs, inputs), 0, k))
    torch.testing.assert_close(network(batch), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(batch[0]), alone, rtol=1e-4, atol=1e-5)


def test_several_slices_of_a_linear_layer_run_as_a_grouped_product():
    network = nn.Sequential(nn.Linear(12, 20))
    decompose(network, "0", 0, 4, 2)
    first = network.get_submodule("0.first")
    assert isinstance(first, SlicedLinear)
    assert first.slices == 4
    assert sum(p.numel() for p in network.parameters()) == 2 * (4 * 20 + 12) + 20


@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_state_dict_survives_reshaping_a_fresh_network(scheme, k):
    def build():
        return nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Flatten())

    network = build()
    decompose(network, "0", scheme, k, 1)
    with torch.device("meta"):
        fresh = build()
    reshape_network(fresh, {"0": Choice(scheme, k, 1)})
    fresh.load_state_dict(network.state_dict(), assign=True)
    inputs = torch.randn(1, 8, 7, 7)
    torch.testing.assert_close(fresh(inputs), network(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("scheme", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_multiplied_back_pair_is_the_best_approximation_of_the_weight(scheme, dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 16, (3, 2))).to(dtype)
    weight = network[0].weight.detach().clone()
    bias = network[0].bias.detach().clone()
    full = full_rank(tuple(weight.shape), scheme, 2)
    decompose(network, "0", scheme, 2, full)
    dense = dense_state(
        nn.Sequential(nn.Conv2d(8, 16, (3, 2))),
        network.state_dict(),
        {"0": Choice(scheme, 2, full)},
    )
    assert set(dense) == {"0.weight", "0.bias"}
    assert dense["0.weight"].dtype == dtype
    assert torch.equal(dense["0.bias"], bias)
    tolerance = 30 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-13
    torch.testing.assert_close(dense["0.weight"], weight, rtol=0, atol=tolerance)


def test_training_flag_gradients_and_bias_carry_over():
    network = nn.Sequential(nn.Conv2d(8, 8, 3)).eval()
    network[0].weight.requires_grad_(requires_grad=False)
    bias = network[0].bias
    decompose(network, "0", 0, 1, 2)
    pair = network[0]
    assert not pair.training
    assert not pair.first.weight.requires_grad
    assert pair.second.bias is bias


class Odd(nn.Linear):
    """A subclass that may do anything."""


class Everything(nn.Module):
    """One layer of every sort that must be kept, and some that need not."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(4, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, (1, 3), groups=8)
        self.separable = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.sized = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.odd = Odd(8, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.pruned = prune.identity(nn.Linear(8, 8), "weight")
        self.tied_a = nn.Linear(8, 8)
        self.tied_b = nn.Linear(8, 8)
        self.tied_b.weight = self.tied_a.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.tokens = nn.Linear(8, 8)
        self.unused = nn.Linear(8, 8)

    def forward(self, image):
        image = self.separable(self.depthwise(self.plain(image)))
        image = self.up(self.grouped(image))
        image = self.sized(image, [2 * extent for extent in image.shape[2:]])
        rows = self.odd(image.flatten(2).transpose(1, 2))
        rows = self.tied_b(self.tied_a(self.pruned(self.normed(rows))))
        return self.tokens(self.attention(rows, rows, rows)[0])


def test_layers_that_must_be_kept_carry_their_reason():
    network = Everything().eval()
    layers = find_layers(network, trace(network, (4, 9, 9)))
    reasons = {name: spec.reason for name, spec in layers.items()}
    free = {name for name, reason in reasons.items() if reason is None}
    assert free == {
        "plain",
        "separable",
        "grouped",
        "up",
        "tokens",
        "attention.in_proj",
        "attention.out_proj",
    }
    assert reasons["depthwise"] == "depthwise convolution"
    assert "more than its input" in reasons["sized"]
    assert "Odd" in reasons["odd"]
    assert "masked" in reasons["pruned"]
    assert "weight norm" in reasons["normed"]
    assert "shared" in reasons["tied_a"]
    assert "without calling" in reasons["unused"]


def test_without_a_trace_a_fresh_network_has_the_same_layers():
    """An artefact is loaded into a network that has not run."""
    network = Everything().eval()
    traced = find_layers(network, trace(network, (4, 9, 9)))
    untraced = find_layers(network)
    assert list(traced) == list(untraced)
    for name, spec in traced.items():
        if spec.reason is None:
            assert untraced[name].reason is None


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        (Choice(0, 3, 1), "does not divide"),
        (Choice(0, 0, 1), "does not divide"),
        (Choice(5, 1, 1), "scheme 5"),
        (Choice(0, 1, 0), "not between 1 and"),
        (Choice(0, 1, 9), "not between 1 and"),
        (Choice(0, 4, 8), "would have"),
    ],
)
def test_impossible_choices_are_named(choice, complaint):
    specs = find_layers(nn.Sequential(nn.Conv2d(8, 8, 3)))
    with pytest.raises(PlanError, match=f"0: .*{complaint}"):
        require_fitting(specs, {"0": choice})


def test_unknown_layers_and_kept_ones_are_named():
    specs = find_layers(nn.Sequential(nn.Conv2d(8, 8, (3, 1), groups=8)))
    with pytest.raises(PlanError, match="no such layer"):
        require_fitting(specs, {"nowhere": None})
    with pytest.raises(PlanError, match="must be kept"):
        require_fitting(specs, {"0": Choice(0, 1, 1)})
