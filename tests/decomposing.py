"""Helpers for tests of surgery: decompositions by SVD, random plans and pairs."""

from __future__ import annotations

import random

import torch
from torch import nn

from alds_cli.numerics.fold import (
    distinct_schemes,
    divisors,
    factors_to_weights,
    fold,
    folded_shape,
    full_rank,
    pair_params,
    pair_shapes,
)
from alds_cli.records import Choice
from alds_cli.surgery import find_layers, install_pair, weight_at


def rank_of(spec, scheme, k):
    """Return the rank at which nothing is lost."""
    return full_rank(spec.weight_shape, scheme, k, spec.groups)


def decompose(network, name, scheme, k, j):
    """Slice, fold and factor with torch's SVD, and replace the layer in place."""
    spec = find_layers(network)[name]
    weight = weight_at(network, name)
    assert tuple(weight.shape) == spec.weight_shape
    rows, columns = folded_shape(spec.weight_shape, scheme)
    # (g, rows / g, k, columns / k) -> (g·k, rows / g, columns / k)
    split = (spec.groups, rows // spec.groups, k, columns // k)
    slices = fold(weight, scheme).to(torch.float64).reshape(split).transpose(1, 2).flatten(0, 1)
    left, values, right = torch.linalg.svd(slices, full_matrices=False)
    left, right = left[..., :j] * values[:, None, :j], right[:, :j]
    weights = factors_to_weights(left, right, spec.weight_shape, scheme, spec.groups)
    install_pair(network, name, Choice(scheme, k, j), weights)


def install_random(network, name, choice):
    """Replace a layer by a pair of random weights of any rank."""
    spec = find_layers(network)[name]
    shapes = pair_shapes(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups)
    weights = tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)
    install_pair(network, name, choice, weights)


def randomised(network):
    """Convert the network to float64, and draw every parameter anew, even biases and norms."""
    network = network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
    return network


def any_plan(specs, seed):
    """Draw a fitting choice for every layer that has one."""
    draw = random.Random(seed)
    plan = {}
    for name, spec in specs.items():
        shape, groups = spec.weight_shape, spec.groups
        scheme = draw.choice(distinct_schemes(spec.kernel))
        k = draw.choice([k for k in divisors(shape[1]) if k <= (spec.max_slices or k)])
        unit = pair_params(shape, scheme, k, 1, groups)
        most = min(full_rank(shape, scheme, k, groups), (spec.weight_params - 1) // unit)
        if spec.reason is None and most > 0:
            plan[name] = Choice(scheme, k, draw.randint(1, most))
    return plan
