"""Independent checks of filter pruning: zeros in a dense network, counts of a smaller one."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from alds_cli.surgery.pruning import prune_network

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def scramble(network, seed=0):
    """Draw parameters and statistics in float64, so that no shift or scale is neutral."""
    torch.manual_seed(seed)
    network.double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, NORMS):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1)
    return network


def any_removal(channels, seed=0):
    """Choose some channels of every group that has several, never all of them."""
    draw = np.random.default_rng(seed)
    return {
        group.name: np.sort(draw.permutation(group.size)[: draw.integers(1, max(2, group.size))])
        for group in channels.groups
        if group.size > 1
    }


def with_zero_columns(network, pruned):
    """Make a dense copy in which the layers that read removed channels ignore them."""
    dense = copy.deepcopy(network)
    with torch.no_grad():
        for name, kept in pruned.items():
            if kept.inputs is not None:
                layer = dense.get_submodule(name)
                transposed = isinstance(layer, nn.ConvTranspose2d)
                axis = 0 if transposed else 1
                gone = sorted(set(range(layer.weight.shape[axis])) - set(kept.inputs))
                layer.weight.index_fill_(axis, torch.tensor(gone), 0.0)
    return dense


def with_zero_filters(network, pruned):
    """Make a dense copy in which the removed filters and features are zeros."""
    dense = copy.deepcopy(network)
    with torch.no_grad():
        for name, kept in pruned.items():
            if kept.outputs is not None:
                layer = dense.get_submodule(name)
                transposed = isinstance(layer, nn.ConvTranspose2d)
                axis = 1 if transposed else 0
                gone = torch.tensor(sorted(set(range(layer.weight.shape[axis])) - {*kept.outputs}))
                layer.weight.index_fill_(axis, gone, 0.0)
                if layer.bias is not None:
                    layer.bias[gone] = 0.0
    return dense


def pruned_copy(network, pruned):
    """Return a smaller network, and leave the dense one as it is."""
    small = copy.deepcopy(network)
    prune_network(small, pruned)
    return small


def outputs(network, images):
    with torch.no_grad():
        return network(images)


def assert_same(found, expected):
    assert expected.abs().max() > 1e-9  # otherwise any output would pass
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))
