"""Filters taken out of modules, put back as zeros, and plans that do not fit."""

from __future__ import annotations

import copy

import pytest
import torch
from pruned_networks import assert_same, outputs, pruned_copy, scramble, with_zero_columns
from torch import nn

from alds_cli.compression.filter_removal import carry_out_pruning, require_removable
from alds_cli.errors import PlanError
from alds_cli.records import Kept, Plan
from alds_cli.surgery import dense_pruned_state, find_layers, prune_network
from alds_cli.surgery.channels.find import find_channels
from alds_cli.surgery.equivalence import same_function
from alds_cli.tracing.trace import meta_copy, trace

SHAPE = (3, 8, 8)

PRUNED = {
    "0": Kept((0, 2, 3)),
    "1": Kept((0, 2, 3)),
    "3": Kept((0, 2, 3)),
    "4": Kept((1, 4), (0, 2, 3)),
    "6": Kept(None, (1, 4)),
}
"""Of `network()`: filters 1 of the first layer and 0, 2, 3 of the second go."""


def network():
    return scramble(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, groups=4),
            nn.ConvTranspose2d(4, 5, 2, bias=False),
            nn.Sigmoid(),
            nn.Conv2d(5, 2, 3),
        )
    )


def images():
    torch.manual_seed(1)
    return torch.randn(2, *SHAPE, dtype=torch.float64)


def test_modules_say_what_they_have_become():
    small = pruned_copy(network(), PRUNED)
    first, norm, _, depthwise, up, _, last = small
    assert (first.in_channels, first.out_channels) == (3, 3)
    assert norm.num_features == 3
    assert norm.running_var.shape == (3,)
    assert norm.num_batches_tracked.ndim == 0
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (3, 3, 3)
    assert (up.in_channels, up.out_channels) == (3, 2)
    assert up.weight.shape == (3, 2, 2, 2)
    assert (last.in_channels, last.out_channels) == (2, 2)
    assert last.bias.shape == (2,)


def test_values_are_those_that_stayed():
    dense = network()
    small = pruned_copy(dense, PRUNED)
    assert torch.equal(small[0].weight, dense[0].weight[[0, 2, 3]])
    assert torch.equal(small[4].weight, dense[4].weight[[0, 2, 3]][:, [1, 4]])
    assert torch.equal(small[1].running_mean, dense[1].running_mean[[0, 2, 3]])
    assert_same(outputs(small, images()), outputs(with_zero_columns(dense, PRUNED), images()))


def test_what_stays_holds_no_window_on_what_went():
    small = pruned_copy(network(), PRUNED)
    for tensor in (*small.parameters(), *small.buffers()):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_parameters_stay_as_trainable_as_they_were():
    dense = network()
    dense[0].weight.requires_grad_(False)
    small = pruned_copy(dense, PRUNED)
    assert not small[0].weight.requires_grad
    assert small[0].bias.requires_grad


def test_normalisations_without_parameters_or_statistics():
    dense = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4, affine=False),
        nn.InstanceNorm2d(4),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Conv2d(4, 2, 1),
    ).eval()
    channels = find_channels(dense, SHAPE)
    pruned = channels.without({"0": torch.tensor([1, 3]).numpy()})
    assert set(pruned) == {"0", "1", "2", "3", "4"}
    small = pruned_copy(dense, pruned)
    assert [small[index].num_features for index in (1, 2, 3)] == [2, 2, 2]
    expected = outputs(with_zero_columns(dense, pruned), images().float())
    torch.testing.assert_close(outputs(small, images().float()), expected)


def test_a_skeleton_takes_the_shapes_and_the_tensors():
    dense = network()
    small = pruned_copy(dense, PRUNED)
    skeleton = meta_copy(dense)
    prune_network(skeleton, PRUNED, input_shape=SHAPE)
    assert all(tensor.is_meta for tensor in skeleton.parameters())
    skeleton.load_state_dict(small.state_dict(), assign=True)
    assert torch.equal(outputs(skeleton, images()), outputs(small, images()))


def test_put_back_as_zeros():
    dense = network()
    small = pruned_copy(dense, PRUNED)
    state = dense_pruned_state(dense, small.state_dict(), PRUNED)
    assert state["1.running_var"][1] == 1
    for name in ("1.running_mean", "1.weight", "1.bias", "0.bias"):
        assert state[name][1] == 0
    assert not state["0.weight"][1].any()
    assert not state["4.weight"][1].any()
    assert not state["4.weight"][:, [0, 2, 3]].any()
    again = copy.deepcopy(dense)
    again.load_state_dict(state)
    assert_same(outputs(again, images()), outputs(small, images()))
    assert all(
        torch.equal(own, small.state_dict()[name])
        for name, own in pruned_copy(again, PRUNED).state_dict().items()
    )


def test_nothing_to_remove_changes_nothing():
    dense = network()
    state = dense.state_dict()
    prune_network(dense, {})
    assert dense_pruned_state(dense, state, {}) == state


@pytest.mark.parametrize(
    ("pruned", "complaint"),
    [
        ({"7": Kept((0,))}, "7: there is no such module"),
        ({"2": Kept((0,))}, "2: channels cannot be removed from a ReLU"),
        ({"": Kept((0,))}, "cannot be removed from a Sequential"),
        ({"0": Kept(())}, "at least one output stays"),
        ({"0": Kept(None, ())}, "at least one input stays"),
        ({"0": Kept((0, 4))}, "the outputs that stay are not in ascending order between 0 and 3"),
        ({"0": Kept((-1, 2))}, "ascending order"),
        ({"0": Kept((2, 1))}, "ascending order"),
        ({"0": Kept((1, 1))}, "ascending order"),
        ({"6": Kept(None, (0, 5))}, "the inputs that stay .* 4"),
        ({"1": Kept((0,), (0,))}, "1: it has no inputs apart from its outputs"),
        ({"0": Kept((0, 1))}, "what it leaves does not run"),
        ({"6": Kept(None, (0, 1))}, "what it leaves does not run"),
    ],
)
def test_plans_that_do_not_fit(pruned, complaint):
    dense = network()
    before = dense.state_dict()
    with pytest.raises(PlanError, match=complaint):
        prune_network(dense, pruned, input_shape=SHAPE)
    assert all(torch.equal(before[name], own) for name, own in dense.state_dict().items())


def test_grouped_layers_are_refused():
    with pytest.raises(PlanError, match="cannot be removed from a Conv2d"):
        prune_network(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), {"0": Kept((0, 1))})


def test_many_complaints_are_counted():
    pruned = {f"x{index}": Kept((0,)) for index in range(7)}
    with pytest.raises(PlanError, match="and 2 more"):
        prune_network(network(), pruned)


@pytest.mark.parametrize(
    "edit",
    [
        lambda plan: plan.pop("3"),
        lambda plan: plan.update({"6": Kept(None, (1, 3))}),
        lambda plan: plan.update({"6": Kept((0,), (1, 4))}),
        lambda plan: plan.update({"0": Kept((0, 2, 3), (0, 1))}),
    ],
)
def test_plans_remove_whole_channels_or_none(edit):
    dense = network()
    plan = dict(PRUNED)
    edit(plan)
    channels = find_channels(dense, SHAPE)
    with pytest.raises(PlanError, match="does not remove whole channels"):
        require_removable(dense, channels, plan)
    require_removable(dense, channels, PRUNED)


def test_reports_tell_what_every_layer_lost():
    dense = network()
    specs = find_layers(dense, trace(dense, SHAPE))
    small = copy.deepcopy(dense)
    events = []
    reports = carry_out_pruning(
        small,
        find_channels(dense, SHAPE),
        specs,
        Plan({}, pruned=PRUNED),
        SHAPE,
        progress=events.append,
    )
    found = {report.name: report for report in reports}
    assert list(found) == ["0", "3", "4", "6", "1"]
    assert [event.done for event in events][-1] == events[-1].total == 4
    for name, report in found.items():
        own = sum(p.numel() for p in small.get_submodule(name).parameters())
        assert report.params_after == own, name
        assert report.kept == PRUNED[name]
        assert report.error_bound is None
    # Ŵ with zeros in the place of what went, by NumPy.
    weight = dense[4].weight.detach().transpose(0, 1).flatten(1)
    left = torch.zeros(5, 4, 4, dtype=torch.float64)
    own = dense[4].weight.detach().transpose(0, 1).flatten(2)
    for row in (1, 4):
        for column in (0, 2, 3):
            left[row, column] = own[row, column]
    norm = torch.linalg.matrix_norm(weight, 2)
    expected = torch.linalg.matrix_norm(weight - left.flatten(1), 2) / norm
    assert found["4"].error == pytest.approx(float(expected), rel=1e-6)
    assert found["1"].error == 0  # it has no weight of its own
    sizes = dense[3].weight.detach().flatten(1).norm(dim=1)
    assert found["3"].error == pytest.approx(float(sizes[1] / sizes.max()))


def test_layers_without_removable_channels_say_why():
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 3))
    channels = find_channels(dense, SHAPE)
    reports = carry_out_pruning(dense, channels, find_layers(dense), Plan({}), SHAPE)
    assert {report.reason for report in reports} == {"the network's code fixes its channels"}


def test_a_network_that_computes_something_else_is_refused():
    dense = network()
    other = {**PRUNED, "0": Kept((0, 1, 3))}
    refused = pytest.raises(PlanError, match="computes something else")
    with refused, same_function(dense, PRUNED, SHAPE):
        prune_network(dense, other)


def test_a_network_that_does_not_run_is_refused():
    dense = network()
    with pytest.raises(PlanError, match="does not run"), same_function(dense, PRUNED, SHAPE):
        prune_network(dense, {"0": Kept((0, 2))})


def test_a_network_that_did_not_run_before_is_named():
    dense = network()
    refused = pytest.raises(PlanError, match=r"^the network does not run .*\(1, 3, 1, 1\)")
    with refused, same_function(dense, PRUNED, (3, 1, 1)):
        raise AssertionError("nothing is done to a network that does not run")


def test_networks_without_shapes_on_meta_are_taken_as_they_are():
    class Counting(nn.Module):
        def forward(self, x):
            return x * float(x.sum().item() > -1e9)

    dense = nn.Sequential(Counting(), network())
    inner = {f"1.{name}": kept for name, kept in PRUNED.items()}
    prune_network(dense, inner, input_shape=SHAPE)
    assert_same(outputs(dense, images()), outputs(pruned_copy(network(), PRUNED), images()))


def test_the_check_leaves_no_hooks_and_takes_half_precision():
    dense = network().to(torch.bfloat16)
    with same_function(dense, PRUNED, SHAPE):
        prune_network(dense, PRUNED)
    assert not any(module._forward_pre_hooks for module in dense.modules())
    assert dense[0].weight.dtype == torch.bfloat16
