"""Whether a layer does and holds what its type says, and nothing else.

A pair takes over a layer's weight and bias. Whatever else hangs on the layer (a hook, another
parameter, a method replaced on this one instance) would be lost with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

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
