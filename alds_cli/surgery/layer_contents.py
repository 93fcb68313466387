"""The contents of a layer: its weight, norms that compute it, and anything else it carries.

The weights of all kinds of layers are brought into one form, (f, c/g, κ…). PyTorch has weight_norm
and spectral_norm twice, as hooks (`torch.nn.utils.weight_norm`) and as parametrizations
(`torch.nn.utils.parametrizations`), where it also has orthogonal weights. In evaluation mode each
gives a weight that depends on parameters and buffers alone, so that a plain layer with this weight
computes the same. A pair takes over a layer's weight and bias; anything else (a hook, another
parameter, a method replaced on this one instance) would be lost with the layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

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


_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

_HOOKED: dict[type, tuple[str, tuple[str, ...], Callable[[nn.Module, str], nn.Module]]] = {
    WeightNorm: ("weight norm", ("_g", "_v"), remove_weight_norm),
    SpectralNorm: ("spectral norm", ("_orig", "_u", "_v"), remove_spectral_norm),
}
"""Each hook's title, the endings of the tensor's name in a state dict, and its remover."""

_PARAMETRIZED = {
    parametrizations._WeightNorm: "weight norm",  # noqa: SLF001
    parametrizations._SpectralNorm: "spectral norm",  # noqa: SLF001
    parametrizations._Orthogonal: "an orthogonal parametrization",  # noqa: SLF001
}

_FORMERLY: dict[type, dict[str, str]] = {
    parametrizations._WeightNorm: {"_g": "original0", "_v": "original1"},  # noqa: SLF001
    parametrizations._SpectralNorm: {  # noqa: SLF001
        "_orig": "original",
        "_u": "0._u",
        "_v": "0._v",
    },
}
"""Endings of the tensor's name under the hook of the same norm, and the parametrization's names
for these entries: many a checkpoint is older than the code of its network."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm that computes one tensor of a layer.

    Attributes:
        title: the norm's name, for use within a sentence.
        tensor: the tensor's name in the layer, `weight` as a rule.
        entries: the names in the layer's state dict that stand in its place; for a
            parametrization, the beginnings of these names.
        remove: folds the norm, if a hook computes the tensor.
        former: the names that a hook has in the state dict, with today's names for them.
    """

    title: str
    tensor: str
    entries: tuple[str, ...]
    remove: Callable[[nn.Module, str], nn.Module] | None = None
    former: Mapping[str, str] = field(default_factory=dict)


def norms_in(layer: nn.Module) -> list[Norm]:
    """Return the norms of a layer; none if anything else also computes one of its tensors."""
    if parametrize.is_parametrized(layer):
        return _parametrized_norms(layer)
    found = []
    for hook in layer._forward_pre_hooks.values():  # noqa: SLF001
        if type(hook) in _HOOKED:
            title, endings, remove = _HOOKED[type(hook)]
            tensor = str(hook.name)  # type: ignore[attr-defined]
            entries = tuple(f"{tensor}{ending}" for ending in endings)
            found.append(Norm(title, tensor, entries, remove))
    return found


def _parametrized_norms(layer: nn.Module) -> list[Norm]:
    found = []
    computed: Any = layer.parametrizations
    for tensor, steps in computed.items():
        titles = [_PARAMETRIZED.get(type(step)) for step in steps]
        if None in titles:
            return []
        title = " and ".join(map(str, titles))
        prefix = f"parametrizations.{tensor}."
        former = {
            f"{tensor}{ending}": f"{prefix}{now}"
            for ending, now in (
                _FORMERLY.get(type(steps[0]), {}) if len(steps) == 1 else {}
            ).items()
        }
        found.append(Norm(title, tensor, (prefix, *former), former=former))
    return found


def fold_norms(network: nn.Module) -> dict[str, str]:
    """Replace norms, in place, by the plain weights that they compute in evaluation mode.

    Layers whose parameters are also used elsewhere stay as they are.

    Returns:
        The titles of the folded norms, such as "weight norm", by the layer's dotted name.
    """
    named = network.named_parameters(remove_duplicate=False)
    uses = Counter(id(parameter) for _, parameter in named)
    return {
        name: _fold(layer, norms)
        for name, layer, norms in _normalised(network)
        if all(uses[id(parameter)] == 1 for parameter in layer.parameters())
    }


def fold_absent_norms(network: nn.Module, entries: Collection[str]) -> None:
    """Fold the norms that have no entries in a state dict, so that it can be loaded.

    Args:
        network: the network as its architecture builds it; changed in place.
        entries: the names in the state dict.
    """
    for name, layer, norms in _normalised(network):
        prefix = f"{name}." if name else ""
        prefixes = tuple(prefix + entry for norm in norms for entry in norm.entries)
        if not any(entry.startswith(prefixes) for entry in entries):
            _fold(layer, norms)


def detach_computed(network: nn.Module) -> None:
    """Detach the tensors that hooks computed last; hooks compute them anew at every call.

    PyTorch cannot copy a module that holds a tensor with a history.
    """
    for part in network.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(part)[name] = value.detach()


def current_norm_names(network: nn.Module, entries: Collection[str]) -> dict[str, str]:
    """Return today's name for every name in a state dict; older norms had other names.

    Prefixes before a layer's name are kept.
    """
    names = {entry: entry for entry in entries}
    for name, _, norms in _normalised(network):
        prefix = f"{name}." if name else ""
        for norm in norms:
            for former, now in norm.former.items():
                suffix = prefix + former
                for entry in entries:
                    if f".{entry}".endswith(f".{suffix}"):
                        names[entry] = entry.removesuffix(suffix) + prefix + now
    return names


def _normalised(network: nn.Module) -> list[tuple[str, nn.Module, list[Norm]]]:
    return [
        (name, part, norms)
        for name, part in network.named_modules()
        if isinstance(part, _LAYERS) and (norms := norms_in(part))
    ]


def _fold(layer: Any, norms: list[Norm]) -> str:
    """Fold the norms of one layer, and return their titles."""
    for norm in norms:
        if norm.remove is None:
            for step in layer.parametrizations[norm.tensor]:
                step.eval()  # in training mode, spectral norm would first update its vectors
            parametrize.remove_parametrizations(layer, norm.tensor)
        else:
            norm.remove(layer, norm.tensor)
    hooks = layer._load_state_dict_pre_hooks  # noqa: SLF001
    for key in [key for key, hook in hooks.items() if _is_of_a_norm(hook)]:
        del hooks[key]
    return " and ".join(sorted({norm.title for norm in norms}))


def _is_of_a_norm(hook: Any) -> bool:
    """Return whether a hook only converts what former versions of a norm have saved."""
    function = getattr(hook, "hook", hook)
    return str(getattr(function, "__module__", "")).startswith("torch.nn.utils.")


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
    arguments = _ARGUMENTS.get(kind, (1, 1, 1) if issubclass(kind, _LAYERS) else (1, 1))
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
