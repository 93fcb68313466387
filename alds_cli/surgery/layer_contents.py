"""What a layer holds: a weight, norms that compute it, and whatever else hangs on the layer.

The weights of all kinds of layers are folded in one form, (f, c/g, κ…). PyTorch has weight_norm
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
"""Its title, what a state dict adds to the tensor's name, and what folds it."""

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
"""What the hook of the same norm adds to the tensor's name, and what the parametrization calls
that: many a checkpoint is older than the code of its network."""


@dataclass(frozen=True, slots=True)
class Norm:
    """One tensor of a layer that is computed by a norm.

    Attributes:
        title: of the norm, in a sentence.
        tensor: the tensor's name in the layer, `weight` as a rule.
        entries: what the layer's state dict holds in its place; of a parametrization, the
            beginning of these names.
        remove: folds it where a hook computes it.
        former: what a hook would have in the state dict, and today's names of that.
    """

    title: str
    tensor: str
    entries: tuple[str, ...]
    remove: Callable[[nn.Module, str], nn.Module] | None = None
    former: Mapping[str, str] = field(default_factory=dict)


def norms_in(layer: nn.Module) -> list[Norm]:
    """The norms of a layer; none where anything else computes one of its tensors too."""
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
    """Give normalised layers the plain weights that they compute in evaluation mode, in place.

    Layers whose parameters stand elsewhere too stay as they are.

    Returns:
        What was folded, by the layer's dotted name: "weight norm".
    """
    named = network.named_parameters(remove_duplicate=False)
    uses = Counter(id(parameter) for _, parameter in named)
    return {
        name: _fold(layer, norms)
        for name, layer, norms in _normalised(network)
        if all(uses[id(parameter)] == 1 for parameter in layer.parameters())
    }


def fold_absent_norms(network: nn.Module, entries: Collection[str]) -> None:
    """Fold the norms of which a state dict has nothing, so that it can be loaded.

    Args:
        network: as its architecture says; changed in place.
        entries: the names in the state dict.
    """
    for name, layer, norms in _normalised(network):
        prefix = f"{name}." if name else ""
        own = tuple(prefix + entry for norm in norms for entry in norm.entries)
        if not any(entry.startswith(own) for entry in entries):
            _fold(layer, norms)


def detach_computed(network: nn.Module) -> None:
    """Cut what hooks have computed last off its history; they compute it anew at every call.

    PyTorch copies no module that holds a tensor with a history.
    """
    for part in network.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(part)[name] = value.detach()


def current_norm_names(network: nn.Module, entries: Collection[str]) -> dict[str, str]:
    """The names in a state dict, those that norms once had as today's; by the name given.

    Whatever may stand before a layer's name stays there.
    """
    names = {entry: entry for entry in entries}
    for name, _, norms in _normalised(network):
        prefix = f"{name}." if name else ""
        for norm in norms:
            for former, now in norm.former.items():
                own = prefix + former
                for entry in entries:
                    if f".{entry}".endswith(f".{own}"):
                        names[entry] = entry.removesuffix(own) + prefix + now
    return names


def _normalised(network: nn.Module) -> list[tuple[str, nn.Module, list[Norm]]]:
    return [
        (name, part, norms)
        for name, part in network.named_modules()
        if isinstance(part, _LAYERS) and (norms := norms_in(part))
    ]


def _fold(layer: Any, norms: list[Norm]) -> str:
    """Fold the norms of one layer; returns what they are called."""
    for norm in norms:
        if norm.remove is None:
            for step in layer.parametrizations[norm.tensor]:
                step.eval()  # in training mode spectral norm would first move its vectors
            parametrize.remove_parametrizations(layer, norm.tensor)
        else:
            norm.remove(layer, norm.tensor)
    hooks = layer._load_state_dict_pre_hooks  # noqa: SLF001
    for key in [key for key, hook in hooks.items() if _is_of_a_norm(hook)]:
        del hooks[key]
    return " and ".join(sorted({norm.title for norm in norms}))


def _is_of_a_norm(hook: Any) -> bool:
    """Whether a hook only converts what former versions of a norm have saved."""
    own = getattr(hook, "hook", hook)
    return str(getattr(own, "__module__", "")).startswith("torch.nn.utils.")


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
"""Attributes of these types are marks that others leave on a layer (`_is_hf_initialized`);
where the network's code reads one, a trace tells."""

_ARGUMENTS: Mapping[type[nn.Module], tuple[int, ...]] = {
    nn.Linear: (1, 1),
    nn.modules.linear.NonDynamicallyQuantizableLinear: (1, 1),
    nn.MultiheadAttention: (1, 1),
}
"""For the smallest layer of a type; a convolution has three."""


def reason_beyond_type(layer: nn.Module) -> str | None:
    """Why a layer is more than a plain one of its type; None where it is not.

    Args:
        layer: of one of PyTorch's own types, not of a subclass.
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
    """All that a layer holds by a name of its own."""
    own = vars(layer)
    yield from own.items()
    for kind in ("_parameters", "_buffers", "_modules"):
        yield from own[kind].items()


def _expected(name: str, value: object, usual: frozenset[str]) -> bool:
    return name in usual or isinstance(value, _MARKS)


@cache
def _usual_names(kind: type[nn.Module]) -> frozenset[str]:
    """What a fresh layer of a type holds; names that PyTorch's module class knows are its own."""
    fresh: Any = kind(*_ARGUMENTS.get(kind, (1, 1, 1)), device="meta")
    return frozenset(name for name, _ in _contents(fresh)) | frozenset(dir(nn.Module))


def held_elsewhere(network: nn.Module) -> set[int]:
    """Ids of the modules that stand in plain lists, dictionaries or attributes as well.

    What is replaced in the tree of modules stays there as it was.
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
