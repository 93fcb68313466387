"""Weights that a layer computes from others to normalise them, folded into plain ones.

PyTorch has weight_norm and spectral_norm twice, as hooks (`torch.nn.utils.weight_norm`) and
as parametrizations (`torch.nn.utils.parametrizations`), where it also has orthogonal
weights. In evaluation mode each gives a weight that depends on parameters and buffers alone,
so that a plain layer with this weight computes the same.
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
