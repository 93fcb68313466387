"""Channels-last weights while a network runs, and their memory afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alds_cli.retraining.memory_layout import channels_last

SAMPLE = torch.zeros(2, 3, 8, 8)


class Viewing(nn.Module):
    """Views the activations of a convolution, as many networks for small images do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(144, 5)

    def forward(self, inputs):
        return self.head(self.conv(inputs).view(len(inputs), -1))


def chain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(96, 5)
    )


def test_activations_follow_and_answers_stay():
    network, inputs = chain(), torch.randn(4, 3, 8, 8)
    expected = network(inputs)
    with channels_last(network, SAMPLE) as changed:
        assert changed
        assert network[:3](inputs).is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(network(inputs), expected)


def test_weights_return_to_their_memory_with_the_values_they_have_by_then():
    network = chain()
    places = [own.data_ptr() for own in network.parameters()]
    strides = [own.stride() for own in network.parameters()]
    with channels_last(network, SAMPLE):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        network(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimiser.step()
        trained = [own.detach().clone() for own in network.parameters()]
    assert [own.data_ptr() for own in network.parameters()] == places
    assert [own.stride() for own in network.parameters()] == strides
    for own, value in zip(network.parameters(), trained, strict=True):
        assert torch.equal(own, value)


def test_networks_that_view_their_activations_stay_as_they_are():
    network = Viewing()
    with channels_last(network, SAMPLE) as changed:
        assert not changed
        assert network.conv.weight.is_contiguous()
        network(SAMPLE)


def test_a_shared_weight_is_changed_once():
    network = chain()
    network[2] = nn.Conv2d(8, 8, 3)
    network.append(nn.Identity())
    twin = nn.Conv2d(8, 8, 3)
    twin.weight = network[2].weight
    network.twin = twin
    network.forward = lambda inputs: twin(network[2](network[0](inputs)))
    with channels_last(network, SAMPLE) as changed:
        assert changed
        assert twin.weight is network[2].weight
        twin.weight.data.fill_(2.0)
    assert twin.weight.is_contiguous()
    assert (twin.weight == 2.0).all()


def test_an_error_inside_leaves_the_weights_in_place():
    network = chain()
    place = network[0].weight.data_ptr()
    with pytest.raises(KeyError), channels_last(network, SAMPLE):
        raise KeyError
    assert network[0].weight.data_ptr() == place


def test_networks_without_convolutions_have_nothing_to_change():
    with channels_last(nn.Linear(8, 2), SAMPLE) as changed:
        assert not changed
