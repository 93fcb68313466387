"""What networks give, in containers that every form of file can hold.

Networks give dictionaries, dataclasses, named tuples and objects of classes of their own. A program
of `torch.export` can be loaded only where such a class is known, ONNX has a list of tensors alone,
and TorchScript traces no container within a list or a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from alds_cli.network.observed_outputs import tensors_in

Containers = Callable[[object], Any]


@contextmanager
def giving(module: nn.Module, containers: Containers) -> Iterator[nn.Module]:
    """Let a network give its results in other containers within a block.

    Args:
        module: the network; its names and its signature stay the same.
        containers: `plain` or `traceable`.
    """
    handle = module.register_forward_hook(lambda _module, _given, made: containers(made))
    try:
        yield module
    finally:
        handle.remove()


def plain(made: object) -> Any:
    """Return a result in dictionaries, lists and tuples, with the same tensors in the same order.

    Dataclasses and other objects become dictionaries of their parts by name, and named tuples
    tuples. What holds no tensor is left out of dictionaries, and None in lists and tuples.

    Args:
        made: what a network gives.
    """
    if isinstance(made, Tensor):
        return made
    if not _holds_tensors(made):
        return None
    if isinstance(made, (list, tuple)):
        parts = [plain(part) for part in made]
        return parts if isinstance(made, list) else tuple(parts)
    return {str(name): plain(part) for name, part in _named(made) if _holds_tensors(part)}


def traceable(made: object) -> Any:
    """Return a result as a tensor, a dictionary of tensors, or tuples of tensors within tuples.

    In the order of `plain`. The tensors within parts of a dictionary stand in it, too, as
    `part.name`.

    Args:
        made: what a network gives.
    """
    made = plain(made)
    return named_tensors(made) if isinstance(made, dict) else _tuples(made)


def named_tensors(made: object, name: str = "") -> dict[str, Tensor]:
    """Return the tensors of a plain result by their keys and places, joined by dots.

    Args:
        made: a result as `plain` gives it.
        name: the name of the result itself; without one, keys and places begin the names.
    """
    if isinstance(made, Tensor):
        return {name: made}
    items = made.items() if isinstance(made, Mapping) else enumerate(_several(made))
    found: dict[str, Tensor] = {}
    for key, item in items:
        found |= named_tensors(item, f"{name}.{key}" if name else str(key))
    return found


def _several(made: object) -> list[object] | tuple[object, ...]:
    return made if isinstance(made, (list, tuple)) else ()


def _tuples(made: object) -> Any:
    if isinstance(made, Tensor):
        return made
    parts = made.values() if isinstance(made, dict) else _several(made)
    return tuple(_tuples(part) for part in parts if _holds_tensors(part))


def _holds_tensors(made: object) -> bool:
    return next(tensors_in(made), None) is not None


def _named(made: object) -> list[tuple[object, object]]:
    """Return the parts of an object that is neither a tensor nor a sequence, by their names."""
    if isinstance(made, Mapping):
        return list(made.items())
    if is_dataclass(made):
        return [(field.name, getattr(made, field.name)) for field in fields(made)]
    return list(vars(made).items())
