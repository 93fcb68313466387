"""The contents of a layer: its weight, and anything else it carries.

The weights of all kinds of layers are brought into one form, (f, c/g, κ…). A pair takes over a
layer's weight and bias; anything else (a hook, another parameter, a method replaced on this one
instance) would be lost with the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.surgery.attention import linear_of, packed_projection
from alds_cli.tracing.linear_layers import is_transposed_linear

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Convolutions whose weight is (c, f/g, κ…)."""

HELD_TURNED = (*TRANSPOSED, nn.Embedding)
"""Layers whose weight begins with the input channels."""


def layer_at(network: nn.Module, name: str) -> nn.Module:
    """Return the layer of a dotted name, as `find_layers` gives it.

    `NAME.in_proj` of an `nn.MultiheadAttention` is not a module: the linear layer
    returned holds the very parameters of the packed projection. The same applies to
    `NAME.weight_ih_l0` and the other matrices of a recurrent layer. Of a linear layer that holds
    its weight as (in, out), a linear layer with a transposed view of it is returned.
    """
    owner_name, _, leaf = name.rpartition(".")
    owner = network.get_submodule(owner_name)
    if isinstance(owner, nn.MultiheadAttention) and leaf == "in_proj":
        return packed_projection(owner)
    if isinstance(owner, RECURRENT):
        return next(
            linear_of(weight, bias)
            for matrix, weight, bias in recurrent_matrices(owner)
            if matrix == leaf
        )
    return as_linear(network.get_submodule(name))


def as_linear(module: Any) -> nn.Module:
    """Return the linear layer that computes what a transposed one does, with the same memory.

    Other modules are returned as they are.
    """
    if not is_transposed_linear(module):
        return module  # type: ignore[no-any-return]
    weight = nn.Parameter(module.weight.detach().t(), module.weight.requires_grad)
    return linear_of(weight, module.bias).train(module.training)


def held_form(weight: Tensor, network: nn.Module, name: str) -> Tensor:
    """Bring a weight in the form of `layer_at(network, name)` into that of the network's entry."""
    owner_name, _, leaf = name.rpartition(".")
    module = getattr(network.get_submodule(owner_name), leaf, None)
    return weight.t().contiguous() if is_transposed_linear(module) else weight


def extents_of(layer: Any) -> tuple[int, int]:
    """Return how many inputs and outputs a layer says that it has; of an embedding, its indices."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    return layer.in_channels, layer.out_channels


def kernel_of(layer: nn.Module) -> tuple[int, ...]:
    """Return a layer's extents in space; () of one that is no convolution."""
    return tuple(getattr(layer, "kernel_size", ()))


def groups_of(layer: nn.Module) -> int:
    """Return the groups of a layer; only convolutions may have several."""
    return int(getattr(layer, "groups", 1))


def bias_of(layer: nn.Module) -> nn.Parameter | None:
    """Return the bias of a layer; None if it has none, as no embedding has."""
    return getattr(layer, "bias", None)


def layer_weight(layer: nn.Module) -> Tensor:
    """Return a layer's weight as (f, c/g, κ…): a view of it, detached from its history.

    Args:
        layer: a linear layer, an embedding, or a convolution, transposed or not.
    """
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    return canonical(weight, layer)


def weight_at(network: nn.Module, name: str) -> Tensor:
    """Return the weight (f, c/g, κ…) of the layer of a dotted name; see `layer_at`."""
    return layer_weight(layer_at(network, name))


def canonical(tensor: Tensor, layer: nn.Module) -> Tensor:
    """Bring a weight tensor of a layer into the form (f, c/g, κ…)."""
    return _exchanged(tensor, layer) if isinstance(layer, HELD_TURNED) else tensor


def own_form(weight: Tensor, layer: nn.Module) -> Tensor:
    """Bring a weight (f, c/g, κ…) into the form in which the layer holds it."""
    if isinstance(layer, HELD_TURNED):
        return _exchanged(weight, layer)
    return weight.reshape(layer.weight.shape)  # type: ignore[arg-type]


def _exchanged(tensor: Tensor, layer: Any) -> Tensor:
    """Exchange output and input channels of every group: (f, c/g, κ…) becomes (c, f/g, κ…).

    Transposed convolutions and embeddings hold their weights that way round. Two exchanges cancel
    out.
    """
    groups = groups_of(layer)
    leading, within, *kernel = tensor.shape
    parted = tensor.reshape(groups, leading // groups, within, *kernel).transpose(1, 2)
    return parted.reshape(groups * within, leading // groups, *kernel)


RECURRENT = (nn.RNNBase, nn.RNNCellBase)
"""LSTM, GRU and RNN, and their cells."""

KEPT_RECURRENT = "recurrent layer: pairs for it are not made"
"""The reason for keeping all of its matrices."""

_OF_CELLS = ("weight_ih", "weight_hh")


def recurrent_matrices(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, Any]]:
    """Yield name, weight (rows, columns) and bias (or None) of each matrix of a recurrent layer.

    Matrices that are computed from other parameters are left out.
    """
    names = getattr(module, "_flat_weights_names", _OF_CELLS)
    held = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    for name in names:
        if name.startswith("weight_") and name in held:
            yield name, held[name], held.get(name.replace("weight_", "bias_", 1))


PLAIN_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

_HOOKS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
    "_backward_pre_hooks": "a backward pre-hook",
    "_state_dict_hooks": "a state-dict hook",
    "_state_dict_pre_hooks": "a state-dict pre-hook",
    "_load_state_dict_pre_hooks": "a hook that loads its state dict",
    "_load_state_dict_post_hooks": "a hook that loads its state dict",
}

_MARKS = (bool, int, float, str, torch.dtype, torch.device, type(None))
"""Attributes of these types are marks that libraries leave on a layer (`_is_hf_initialized`);
a trace shows if the network's code reads one."""

_ARGUMENTS: Mapping[type[nn.Module], tuple[int, ...]] = {
    nn.Linear: (1, 1),
    nn.modules.linear.NonDynamicallyQuantizableLinear: (1, 1),
    nn.MultiheadAttention: (1, 1),
}
"""Arguments that build the smallest layer of each type; a convolution takes three."""


def reason_beyond_type(layer: nn.Module) -> str | None:
    """Return why a layer is more than a plain one of its type; None if it is not.

    Args:
        layer: an instance of one of PyTorch's own types, not of a subclass.
    """
    for name, value in vars(layer).items():
        if callable(value) and callable(getattr(type(layer), name, None)):
            return f"its {name} is replaced by other code"
    for hooks, what in _HOOKS.items():
        if getattr(layer, hooks, None):
            return f"it carries {what}"
    kind: Any = type(layer)
    usual = _usual_names(kind)
    further = [name for name, value in _contents(layer) if not _expected(name, value, usual)]
    if further:
        return f"it holds more than weight and bias ({further[0]})"
    return None


def _contents(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield everything that a layer holds under a name."""
    attributes = vars(layer)
    yield from attributes.items()
    for kind in ("_parameters", "_buffers", "_modules"):
        yield from attributes[kind].items()


def _expected(name: str, value: object, usual: frozenset[str]) -> bool:
    return name in usual or isinstance(value, _MARKS)


@cache
def _usual_names(kind: type[nn.Module]) -> frozenset[str]:
    """Return the names in a fresh layer of a type, including those of PyTorch's module class."""
    arguments = _ARGUMENTS.get(kind, (1, 1, 1) if issubclass(kind, PLAIN_LAYERS) else (1, 1))
    with torch.device("meta"):
        fresh: Any = kind(*arguments)
    return frozenset(name for name, _ in _contents(fresh)) | frozenset(dir(nn.Module))


def held_elsewhere(network: nn.Module) -> set[int]:
    """Return the ids of modules that plain lists, dictionaries or attributes also hold.

    A replacement in the tree of modules would leave the old module there.
    """
    return {
        id(found)
        for part in network.modules()
        for name, value in vars(part).items()
        if name != "_modules"
        for found in _modules_in(value, 3)
    }


def _modules_in(value: object, depth: int) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, Mapping):
        for item in value.values():
            yield from _modules_in(item, depth - 1)
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _modules_in(item, depth - 1)
