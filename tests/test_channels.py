"""Which channels can be removed, and what goes with each: small networks, hostile ones included."""

from __future__ import annotations

import pytest
import torch
from pruned_networks import (
    any_removal,
    assert_same,
    outputs,
    pruned_copy,
    scramble,
    with_zero_columns,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from alds_cli.errors import ContractError
from alds_cli.surgery.channels.find import find_channels


def channels_of(network, shape=(3, 8, 8), **options):
    return find_channels(network, shape, **options)


def filters(channels):
    """{layer: its filters that can be removed}."""
    found = {}
    for group in channels.groups:
        for name, places in group.outputs.items():
            found.setdefault(name, set()).update(places.ravel().tolist())
    return found


def assert_prunable(network, shape=(3, 8, 8), seed=0):
    """Random channels of all groups removed: the rest computes what it did."""
    scramble(network)
    channels = channels_of(network, shape)
    pruned = channels.without(any_removal(channels, seed))
    assert pruned
    images = torch.randn(2, *shape, dtype=torch.float64)
    expected = outputs(with_zero_columns(network, pruned), images)
    assert_same(outputs(pruned_copy(network, pruned), images), expected)
    return channels


class Net(nn.Module):
    """Layers by name and a forward pass that uses them."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.act = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.act(self, x)


def conv(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def test_a_chain_gives_every_inner_filter():
    network = nn.Sequential(
        conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5), nn.Flatten(), nn.Linear(320, 4)
    )
    channels = assert_prunable(network)
    first, second = channels.groups
    assert (first.name, first.size, second.name, second.size) == ("0", 6, "3", 5)
    assert first.features.keys() == {"1"}
    assert first.inputs["3"].tolist() == [[index] for index in range(6)]
    # A column of the linear layer for each of 64 positions.
    assert second.inputs["5"].shape == (5, 64)
    assert second.inputs["5"][2].tolist() == list(range(128, 192))


def test_what_is_added_goes_together():
    def forward(self, x):
        x = self.a(x)
        return self.head((x + self.c(F.relu(self.b(x)))).mean((2, 3)))

    network = Net(forward, a=conv(3, 6), b=conv(6, 4), c=conv(4, 6), head=nn.Linear(6, 2))
    channels = assert_prunable(network)
    assert [sorted(group.outputs) for group in channels.groups] == [["a", "c"], ["b"]]


def test_concatenated_channels_keep_their_sources():
    def forward(self, x):
        joined = torch.cat([self.a(x), self.b(x), self.a2(x)], 1)
        return self.head(F.adaptive_avg_pool2d(self.last(joined), 1).flatten(1))

    network = Net(
        forward,
        a=conv(3, 4),
        b=conv(3, 5),
        a2=conv(3, 3),
        last=conv(12, 6),
        head=nn.Linear(6, 2),
    )
    channels = assert_prunable(network)
    taken = {group.name: group.inputs["last"].ravel().tolist() for group in channels.groups[:3]}
    assert taken == {"a": [0, 1, 2, 3], "b": [4, 5, 6, 7, 8], "a2": [9, 10, 11]}


def test_a_tensor_concatenated_with_itself_and_added():
    def forward(self, x):
        small = self.a(x)
        return self.last(torch.cat([small, small], 1) + self.b(x)).sum((2, 3))

    network = Net(forward, a=conv(3, 4), b=conv(3, 8), last=conv(8, 2))
    (group,) = assert_prunable(network).groups
    assert group.size == 4
    assert group.outputs["b"].tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_gates_and_depthwise_layers_follow():
    def forward(self, x):
        x = F.silu(self.depthwise(self.a(x)))
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.last(x * gate).mean((2, 3))

    network = Net(
        forward,
        a=conv(3, 8),
        depthwise=conv(8, 8, groups=8),
        down=conv(8, 2, 1),
        up=conv(2, 8, 1),
        last=conv(8, 3),
    )
    channels = assert_prunable(network)
    wide = channels.groups[0]
    assert sorted(wide.outputs) == ["a", "up"]
    assert sorted(wide.features) == ["depthwise"]
    assert sorted(wide.inputs) == ["down", "last"]


@pytest.mark.parametrize("classic", ["view", "reshape", "flatten"])
def test_gates_written_with_the_shapes_of_tensors(classic):
    def forward(self, x):
        x = self.a(x)
        n, c, _, _ = x.shape
        pooled = F.adaptive_avg_pool2d(x, 1)
        if classic == "flatten":
            row = pooled.flatten(1)
        elif classic == "view":
            row = pooled.view(n, c)
        else:
            row = torch.reshape(pooled, (x.size(0), x.size(1)))
        gate = self.up(F.relu(self.down(row))).sigmoid().view(n, c, 1, 1)
        return self.last(x * gate).mean((2, 3))

    network = Net(
        forward,
        a=conv(3, 8),
        down=nn.Linear(8, 2),
        up=nn.Linear(2, 8),
        last=conv(8, 3),
    )
    channels = assert_prunable(network)
    assert filters(channels) == {"a": set(range(8)), "down": {0, 1}, "up": set(range(8))}


def test_padded_channels_stay_and_those_between_may_go():
    def forward(self, x):
        x = self.a(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        return self.last(self.b(x) + shortcut).mean((2, 3))

    network = Net(forward, a=conv(3, 4), b=conv(4, 7, stride=2), last=conv(7, 3))
    channels = assert_prunable(network)
    assert filters(channels) == {"a": {0, 1, 2, 3}, "b": {1, 2, 3, 4}}


def test_an_activation_that_makes_something_of_nothing():
    network = nn.Sequential(
        conv(3, 6), nn.BatchNorm2d(6), nn.Sigmoid(), nn.MaxPool2d(2), conv(6, 2), nn.Flatten()
    )
    assert_prunable(network)


def test_transposed_convolutions_and_channels_last():
    def forward(self, x):
        x = self.up(self.a(x))
        return self.last(x.permute(0, 2, 3, 1).relu()).mean((1, 2))

    network = Net(
        forward, a=conv(3, 5), up=nn.ConvTranspose2d(5, 6, 2, stride=2), last=nn.Linear(6, 3)
    )
    channels = assert_prunable(network)
    assert filters(channels) == {"a": set(range(5)), "up": set(range(6))}


def test_positions_may_be_sliced_wherever_the_channels_are():
    def forward(self, x):
        return self.last(self.a(x).flatten(2).transpose(1, 2)[:, :6, :].sum(1))

    network = Net(forward, a=conv(3, 6), last=nn.Linear(6, 2))
    assert filters(assert_prunable(network)) == {"a": set(range(6))}


def test_one_dimensional_networks():
    network = nn.Sequential(
        nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)
    )
    assert filters(assert_prunable(network, (3, 8))) == {"0": set(range(6))}


def test_layers_used_in_training_only_follow():
    def forward(self, x):
        x = self.a(x)
        logits = self.last(x.mean((2, 3)))
        return (logits, self.auxiliary(x.amax((2, 3)))) if self.training else logits

    network = Net(forward, a=conv(3, 6), last=nn.Linear(6, 2), auxiliary=nn.Linear(6, 2))
    (group,) = assert_prunable(network).groups
    assert sorted(group.inputs) == ["auxiliary", "last"]


def test_kept_layers_keep_their_filters_only():
    network = nn.Sequential(conv(3, 4), conv(4, 5), conv(5, 2))
    assert filters(channels_of(network, keep=["1"])) == {"0": {0, 1, 2, 3}}


# Everything below must stay as it is.


def halves(self, x):
    first, second = self.a(x).chunk(2, 1)
    return self.last(first * second).mean((2, 3))


def literal_view(self, x):
    return self.last(self.a(x).view(-1, 6, 64).mean(2).view(-1, 6))


def counted(self, x):
    x = self.a(x)
    assert x.shape[1] == 6
    return self.last(x.mean((2, 3)))


def divided_by_count(self, x):
    x = self.a(x)
    return self.last(x.sum((2, 3)) / x.shape[1])


def sliced(self, x):
    return self.last(self.a(x)[:, :6].mean((2, 3)))


def indexed(self, x):
    return self.last(self.a(x)[:, [5, 4, 3, 2, 1, 0]].mean((2, 3)))


def own_parameter(self, x):
    return self.last((self.a(x) * self.a.bias.view(1, -1, 1, 1)).mean((2, 3)))


def weight_taken(self, x):
    return self.last(F.conv2d(x, self.a.weight, padding=1).mean((2, 3)))


def twice(self, x):
    x = self.a(x)
    return self.last(self.square(F.relu(self.square(x))).mean((2, 3)))


def over_channels(self, x):
    return self.last(F.softmax(self.a(x), 1).mean((2, 3)))


def mean_over_channels(self, x):
    x = self.a(x)
    return self.last((x - x.mean(1, keepdim=True)).mean((2, 3)))


def constant_added(self, x):
    return self.last((self.a(x) + torch.arange(6.0).view(1, 6, 1, 1)).mean((2, 3)))


def clamped_by_numbers(self, x):
    return self.last(torch.clamp(self.a(x), min=torch.arange(6.0).view(1, 6, 1, 1)).mean((2, 3)))


def squeezed(self, x):
    return self.last(self.a(x).mean((2, 3), keepdim=True).squeeze().unsqueeze(0)[0])


def shuffled(self, x):
    return self.last(F.channel_shuffle(self.a(x), 2).mean((2, 3)))


def rolled(self, x):
    return self.last(torch.roll(self.a(x), 1, 1).mean((2, 3)))


def written_into(self, x):
    x = self.a(x)
    x[:, 0] = 0
    return self.last(x.mean((2, 3)))


def last_is_output(self, x):
    x = self.a(x)
    return self.last(x.mean((2, 3))), x


HOSTILE = {
    rule.__name__: rule
    for rule in (
        literal_view,
        counted,
        divided_by_count,
        sliced,
        indexed,
        own_parameter,
        weight_taken,
        over_channels,
        mean_over_channels,
        constant_added,
        clamped_by_numbers,
        squeezed,
        shuffled,
        rolled,
        written_into,
        last_is_output,
    )
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_understood_stays(name):
    network = Net(HOSTILE[name], a=conv(3, 6), last=nn.Linear(6, 2))
    with torch.no_grad():
        network(torch.randn(2, 3, 8, 8))  # a network that does run
    assert filters(channels_of(network)) == {}


def test_halved_channels_stay():
    network = Net(halves, a=conv(3, 6), last=conv(3, 2))
    assert filters(channels_of(network)) == {}


def test_a_layer_called_twice_stays():
    network = Net(twice, a=conv(3, 6), square=conv(6, 6), last=nn.Linear(6, 2))
    assert filters(channels_of(network)) == {}


def test_a_module_under_two_names_stays():
    shared = conv(6, 6)
    network = nn.Sequential(conv(3, 6), shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(384, 2))
    assert filters(channels_of(network)) == {}


def test_tied_weights_stay():
    network = nn.Sequential(conv(3, 6), conv(6, 6), nn.ReLU(), conv(6, 6), conv(6, 2))
    network[3].weight = network[1].weight
    # What goes into or comes out of the two layers stays; nothing else is left.
    assert filters(channels_of(network)) == {}


def test_hooks_and_parametrizations_stay():
    hooked = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 5), nn.ReLU(), conv(5, 2))
    hooked[1].register_forward_hook(lambda _module, _args, result: result.flip(1))
    assert filters(channels_of(hooked)) == {"2": {0, 1, 2, 3, 4}}
    whole = nn.Sequential(nn.Sequential(conv(3, 6), nn.ReLU()), conv(6, 5), conv(5, 2))
    whole[0].register_forward_hook(lambda _module, _args, result: result.flip(1))
    assert filters(channels_of(whole)) == {"1": {0, 1, 2, 3, 4}}
    normed = nn.Sequential(conv(3, 6), conv(6, 5), nn.ReLU(), conv(5, 2))
    parametrizations.weight_norm(normed[1])
    assert filters(channels_of(normed)) == {}


def test_subclasses_and_other_normalisations_stay():
    class Odd(nn.Conv2d):
        def forward(self, x):
            return super().forward(x.flip(1))

    for middle in (Odd(6, 6, 1), nn.GroupNorm(2, 6), nn.LocalResponseNorm(3), nn.PReLU(6)):
        network = nn.Sequential(conv(3, 6), middle, conv(6, 4), conv(4, 2))
        found = filters(channels_of(network))
        assert found == {"2": {0, 1, 2, 3}}, middle


def test_grouped_convolutions_stay():
    network = nn.Sequential(conv(3, 6), conv(6, 6, groups=2), conv(6, 4), conv(4, 2))
    assert filters(channels_of(network)) == {"2": {0, 1, 2, 3}}


def test_a_gate_of_one_channel_is_spread_over_all():
    def forward(self, x):
        x = self.a(x)
        return self.last((x * self.gate(x).sigmoid()).mean((2, 3)))

    network = Net(forward, a=conv(3, 6), gate=conv(6, 1), last=nn.Linear(6, 2))
    assert filters(assert_prunable(network)) == {"a": set(range(6))}


def test_code_that_cannot_be_followed_is_an_error_that_says_so():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv(3, 6)

        def forward(self, x):
            x = self.a(x)
            return x if x.sum() > 0 else -x

    with pytest.raises(ContractError, match=r"torch\.fx.*values of tensors") as caught:
        channels_of(Deciding())
    assert "--method alds" in caught.value.tip


def test_ways_that_depend_on_shapes_are_followed():
    def forward(self, x):
        x = self.a(x)
        if len(x.shape) == 4 and x.shape[-1] > 4 and x.dim() == 4:
            x = F.max_pool2d(x, int(x.shape[2] / 4))
        for part in (self.b, self.c):
            x = part(x)
        return x.flatten(1)

    network = Net(forward, a=conv(3, 6), b=conv(6, 5), c=conv(5, 2))
    assert filters(assert_prunable(network)) == {"a": set(range(6)), "b": set(range(5))}


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    channels_of(network)
    assert network.training
    assert all(torch.equal(before[name], own) for name, own in network.state_dict().items())


class BatchNormAndReLU(nn.BatchNorm2d):
    """As timm writes it: the subclass's own code normalises."""

    def forward(self, x):
        normal = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training
        )
        return F.relu(normal)


def test_normalisations_by_a_module_s_own_code():
    network = nn.Sequential(conv(3, 6), BatchNormAndReLU(6), conv(6, 2))
    (group,) = assert_prunable(network).groups
    assert sorted(group.features) == ["1"]


def test_normalisations_with_another_module_s_numbers_stay():
    class Exchanging(BatchNormAndReLU):
        def forward(self, x):
            return F.batch_norm(x, self.running_mean, self.running_var, self.bias, self.weight)

    class Adding(BatchNormAndReLU):
        def forward(self, x):
            return super().forward(x) + self.weight.view(1, -1, 1, 1)

    class Holding(BatchNormAndReLU):
        def __init__(self, count):
            super().__init__(count)
            self.more = nn.Parameter(torch.zeros(count))

    for kind in (Exchanging, Adding, Holding):
        network = nn.Sequential(conv(3, 6), kind(6), conv(6, 2))
        assert filters(channels_of(network)) == {}, kind
