"""How far the layers of a network are from those of the network that it was made from."""

from __future__ import annotations

import math

import torch
from torch import nn

from alds_cli.numerics.eigenvalues import operator_norm
from alds_cli.numerics.grams import unit_exponent
from alds_cli.surgery import find_layers, weight_at


def layer_errors(original: nn.Module, other: nn.Module) -> dict[str, float]:
    """Return ‖W − Ŵ‖₂ / ‖W‖₂ of all layers in the paper's fold, by name.

    Args:
        original: a dense network.
        other: a network with dense layers of the same names; the product of a pair stands for it.
            Layers that it lacks, or has in another shape, are left out.
    """
    specs, others = find_layers(original), find_layers(other)
    found: dict[str, float] = {}
    with torch.no_grad():
        for name, spec in specs.items():
            if name in others and others[name].weight_shape == spec.weight_shape:
                weight, changed = weight_at(original, name), weight_at(other, name)
                unit = unit_exponent(weight)
                lost = operator_norm(weight.double() - changed.double(), spec.groups, unit)
                norm = operator_norm(weight, spec.groups, unit)
                found[name] = lost / norm if norm > 0 else (math.inf if lost > 0 else 0.0)
    return found
