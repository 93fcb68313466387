"""The traces of Fisher's information, and the allocation that is weighted by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alds_cli.calibration.fisher_traces import FisherTrace, gather_fisher_traces
from alds_cli.errors import DataError, NoLogitsError, OptionError
from alds_cli.methods import METHODS, method_named
from alds_cli.methods.alds_fisher import error_weights
from alds_cli.surgery import find_layers


class Attends(nn.Module):
    """A network on tokens with a packed attention, whose layers are used without being called."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(dim=1))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(6, 8, 2, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


def batches(*shape, count=3, size=10):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, *shape, generator=generator), torch.zeros(size, dtype=torch.long))
        for _ in range(count)
    ]


def by_hand(network, images, seeds, layer, channels_at):
    """E‖g‖² / f by one image at a time, with the classes that the passes of eight draw."""
    total, seen = 0.0, []
    handle = layer.register_forward_hook(lambda *call: seen.append(call[2]))
    for part, seed in zip(images, seeds, strict=True):
        with torch.no_grad():
            chances = network(part).double().softmax(1)
        drawn = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(seed))
        for image, answer in zip(part, drawn, strict=True):
            seen.clear()
            logs = network(image[None]).log_softmax(1)
            (gradient,) = torch.autograd.grad(logs[0, answer[0]], seen[0])
            total += float(gradient.double().square().sum())
    handle.remove()
    return total / sum(map(len, images)) / seen[0].shape[channels_at]


@pytest.mark.parametrize(("name", "axis"), [("0", 1), ("3", 1), ("6", 1)])
def test_traces_are_those_of_single_images(name, axis):
    torch.manual_seed(0)
    network = convolutional()
    given_batches = batches(3, 5, 5)
    found = gather_fisher_traces(network, find_layers(network), given_batches)
    parts = [part for inputs, _ in given_batches for part in inputs.split(8)]
    expected = by_hand(network, parts, range(len(parts)), network.get_submodule(name), axis)
    assert found[name].gradients == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        seen = []
        network.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2]))
        for inputs, _ in given_batches:
            network(inputs)
    values = torch.cat(seen).double().transpose(0, 1).flatten(1)
    assert found[name].energy == pytest.approx(float(values.var(1, correction=0).sum()), rel=1e-5)


def test_projections_of_attentions_are_weighed_too():
    torch.manual_seed(0)
    network = Attends().eval()
    found = gather_fisher_traces(network, find_layers(network), batches(7, 8))
    assert set(found) == {"attention.in_proj", "attention.out_proj", "head"}
    assert all(trace.gradients > 0 and trace.energy > 0 for trace in found.values())


def test_threads_change_no_bit_and_the_network_stays_as_it_was(threads):
    torch.manual_seed(0)
    network = convolutional().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    specs, found = find_layers(network), []
    for count in (1, 4):
        threads(count)
        found.append(gather_fisher_traces(network, specs, batches(3, 5, 5)))
    assert found[0] == found[1]
    assert all(torch.equal(before[name], own) for name, own in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_layers_without_influence_and_without_calls():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(6, 4), nn.Linear(6, 4)
            self.never = nn.Linear(6, 4)

        def forward(self, x):
            self.idle(x)
            return self.used(x)

    network = Odd().eval()
    found = gather_fisher_traces(network, find_layers(network), batches(6))
    assert set(found) == {"used", "idle"}
    assert found["idle"].gradients == 0 < found["used"].gradients


def test_what_has_no_logits_or_gradients_is_refused():
    rows = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(NoLogitsError, match="not logits"):
        gather_fisher_traces(rows, find_layers(rows), batches(3, 5, 5))

    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x):
            held = self.first(x).exp()
            out = self.last(held)
            held.zero_()
            return out + held.sum()

    network = Overwrites()
    with pytest.raises(DataError, match="gradients cannot be computed"):
        gather_fisher_traces(network, find_layers(network), batches(6))
    with pytest.raises(DataError, match="no images"):
        gather_fisher_traces(network, find_layers(network), [])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1e12), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_weights_are_powers_of_the_importance(importances, power):
    traces = {str(at): FisherTrace(own, 1.0) for at, own in enumerate(importances)}
    weights = error_weights(traces, power)
    assert set(weights) == set(traces)
    if max(importances) == 0 or power == 0:
        assert all(weight == pytest.approx(1) for weight in weights.values())
        return
    floor = 1e-9 * max(importances)
    known = np.array([weights[name] for name in traces])
    expected = np.maximum(importances, floor) ** (power / 2)
    assert np.allclose(known / known[0], expected / expected[0], rtol=1e-9)
    assert np.log(known).mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("power", [-0.1, 1.5])
def test_a_power_beyond_its_range_is_refused(power):
    with pytest.raises(OptionError, match="not between 0 and 1"):
        METHODS["alds-fisher"].settled_arguments("alds-fisher", {"power": power})


def test_it_needs_what_alds_data_needs_and_the_traces():
    needs = [statistic.name for statistic in method_named("alds-fisher").needs]
    assert needs == ["input_moments", "fisher_traces"]
