"""Norms that compute a layer's weight whenever it is needed, and the plain weight in their place.

PyTorch has weight_norm and spectral_norm twice, as hooks (`torch.nn.utils.weight_norm`) and as
parametrizations (`torch.nn.utils.parametrizations`), where it also has orthogonal weights. In
evaluation mode each gives a weight that depends on parameters and buffers alone, so that a plain
layer with this weight computes the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

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

    Layers whose parameters another layer holds too stay as they are.

    Returns:
        The titles of the folded norms, such as "weight norm", by the layer's dotted name.
    """
    uses = Counter(id(own) for part in network.modules() for own in part._parameters.values())  # noqa: SLF001
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
    """Detach the tensors that were computed last; they are computed anew at every call.

    PyTorch cannot copy a module that holds a tensor with a history. Recurrent layers hold a list
    of their weights.
    """
    for part in network.modules():
        held = vars(part)
        for name, value in held.items():
            if _has_history(value):
                held[name] = value.detach()
            elif isinstance(value, list):
                value[:] = [each.detach() if _has_history(each) else each for each in value]


def _has_history(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf


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
        (name, part, norms) for name, part in network.named_modules() if (norms := norms_in(part))
    ]


def _fold(layer: Any, norms: list[Norm]) -> str:
    """Fold the norms of one layer, and return their titles."""
    for norm in norms:
        if norm.remove is None:
            _class_of_its_own(layer)
            for step in layer.parametrizations[norm.tensor]:
                step.eval()  # in training mode, spectral norm would first update its vectors
            parametrize.remove_parametrizations(layer, norm.tensor)
            # A recurrent layer notes in a list what is set.
            setattr(layer, norm.tensor, getattr(layer, norm.tensor))
        else:
            norm.remove(layer, norm.tensor)
    hooks = layer._load_state_dict_pre_hooks  # noqa: SLF001
    for key in [key for key, hook in hooks.items() if _is_of_a_norm(hook)]:
        del hooks[key]
    return " and ".join(sorted({norm.title for norm in norms}))


def _class_of_its_own(layer: nn.Module) -> None:
    """Give a parametrised layer a class that it shares with no copy of it.

    The tensors are properties of a class that PyTorch makes for the layer, and that copies of the
    layer share: where one was folded, the others, the user's own network among them, would have
    no weight.
    """
    kind = type(layer)
    content = {key: each for key, each in vars(kind).items() if key not in _OF_EVERY_CLASS}
    layer.__class__ = type(kind.__name__, kind.__bases__, content)


_OF_EVERY_CLASS = frozenset({"__dict__", "__weakref__"})


def _is_of_a_norm(hook: Any) -> bool:
    """Return whether a hook only converts what former versions of a norm have saved."""
    function = getattr(hook, "hook", hook)
    return str(getattr(function, "__module__", "")).startswith("torch.nn.utils.")
