"""The one form in which all layers' weights are folded, whatever their kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from alds_cli.surgery.attention import linear_of, packed_projection

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def layer_at(network: nn.Module, name: str) -> nn.Module:
    """The layer of a dotted name, as `find_layers` gives it.

    `NAME.in_proj` of an `nn.MultiheadAttention` is no module there: the linear layer
    returned holds the very parameters of the packed projection. The same goes for
    `NAME.weight_ih_l0` and its like of a recurrent layer.
    """
    owner_name, _, own = name.rpartition(".")
    owner = network.get_submodule(owner_name)
    if isinstance(owner, nn.MultiheadAttention) and own == "in_proj":
        return packed_projection(owner)
    if isinstance(owner, RECURRENT):
        return next(
            linear_of(weight, bias)
            for matrix, weight, bias in recurrent_matrices(owner)
            if matrix == own
        )
    return network.get_submodule(name)


def layer_weight(layer: nn.Module) -> Tensor:
    """A layer's weight as (f, c/g, κ…): a view of it, without its history.

    Args:
        layer: linear or a convolution, transposed or not.
    """
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    return canonical(weight, layer)


def weight_at(network: nn.Module, name: str) -> Tensor:
    """The weight, as (f, c/g, κ…), of the layer of a dotted name; see `layer_at`."""
    return layer_weight(layer_at(network, name))


def canonical(tensor: Tensor, layer: nn.Module) -> Tensor:
    """A weight tensor of a layer as (f, c/g, κ…)."""
    return _exchanged(tensor, layer) if isinstance(layer, TRANSPOSED) else tensor


def own_form(weight: Tensor, layer: nn.Module) -> Tensor:
    """A weight (f, c/g, κ…) as the layer itself holds it."""
    if isinstance(layer, TRANSPOSED):
        return _exchanged(weight, layer)
    return weight.reshape(layer.weight.shape)  # type: ignore[arg-type]


def _exchanged(tensor: Tensor, layer: Any) -> Tensor:
    """Output and input channels of every group exchanged: (f, c/g, κ…) is (c, f/g, κ…) then.

    A transposed convolution holds its weight the other way round. Done twice it is undone.
    """
    groups = layer.groups
    leading, within, *kernel = tensor.shape
    parted = tensor.reshape(groups, leading // groups, within, *kernel).transpose(1, 2)
    return parted.reshape(groups * within, leading // groups, *kernel)


RECURRENT = (nn.RNNBase, nn.RNNCellBase)
"""LSTM, GRU and RNN, and their cells."""

KEPT_RECURRENT = "recurrent layer: pairs for it are not made"
"""The reason of all its matrices."""

_OF_CELLS = ("weight_ih", "weight_hh")


def recurrent_matrices(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, Any]]:
    """Own name, weight (rows, columns) and bias, or None, of each matrix of a recurrent layer.

    Matrices that are computed from other parameters are passed over.
    """
    names = getattr(module, "_flat_weights_names", _OF_CELLS)
    held = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    for name in names:
        if name.startswith("weight_") and name in held:
            yield name, held[name], held.get(name.replace("weight_", "bias_", 1))
