"""Finding the state dict within the structure that a training script saved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.checkpoint.pickle_items import Opaque
from alds_cli.errors import CheckpointError, OptionError

USUAL_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "ema",
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
)
"""Keys that hold a network's state dict, in the order of preference."""

_MAX_DEPTH = 3

_SEARCHED = (Mapping, list, tuple, nn.Module)


@dataclass(frozen=True, slots=True)
class FoundState:
    """A state dict, the keys that lead to it, and the keys of other state dicts."""

    tensors: dict[str, Tensor]
    trail: tuple[str, ...]
    others: tuple[str, ...]


def find_state_dict(loaded: object, key: str | None = None) -> FoundState:
    """Find the network's state dict in the content of a file.

    Args:
        loaded: a mapping, nested or not, or a module.
        key: the entry to use, with dots for nested ones and numbers for those of lists; None
            searches the usual ones.

    Raises:
        CheckpointError: there is no state dict, or none under the key.
    """
    every = list(_candidates(loaded, ()))
    candidates = [found for found in every if key is None or ".".join(found[0]) == key]
    if not candidates:
        where = f"under the key '{key}'" if key is not None else "in it"
        raise CheckpointError(
            f"no state dict was found {where}; it holds {_describe(loaded)}", tip=_keys_tip(every)
        )
    candidates.sort(key=lambda found: _preference(found[0]))
    trail, mapping = candidates[0]
    others = tuple(".".join(other) for other, _ in candidates[1:])
    return FoundState(_clean(mapping), trail, others)


def _keys_tip(candidates: Sequence[tuple[tuple[str, ...], object]]) -> str | None:
    """List the keys that can be used; None if none can."""
    keys = [".".join(trail) for trail, _ in candidates]
    if not keys:
        return None
    if keys == [""]:
        return "leave --state-key out: the file itself is a state dict"
    return f"--state-key takes {', '.join(keys[:8])}" + (", …" if len(keys) > 8 else "")


def _candidates(
    loaded: object, trail: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    if isinstance(loaded, (list, tuple)):
        loaded = {str(n): item for n, item in enumerate(loaded) if isinstance(item, _SEARCHED)}
    if not isinstance(loaded, Mapping) or len(trail) > _MAX_DEPTH:
        return
    if _is_state_dict(loaded):
        yield trail, loaded
        return
    for key, value in loaded.items():
        if isinstance(key, str):
            yield from _candidates(value, (*trail, key))


def _is_state_dict(mapping: Mapping[object, object], depth: int = 0) -> bool:
    """Return whether a mapping is a state dict: it has named tensors, and they are the majority.

    A mapping that holds a state dict is not one itself, though it may also hold a random
    generator's state and a best accuracy as tensors. The state of an optimiser is not a state
    dict either. A module's extra state is ignored.
    """
    if not all(isinstance(key, str) for key in mapping):
        return False
    inner = (
        value
        for key, value in mapping.items()
        if isinstance(value, Mapping) and not str(key).endswith("_extra_state")
    )
    if depth < _MAX_DEPTH and any(_is_state_dict(value, depth + 1) for value in inner):
        return False
    if _quantised_entry(mapping) is not None:
        return True  # so that the error names it as what it is
    tensors = sum(is_tensor(value) for value in mapping.values())
    numbers = sum(isinstance(value, np.generic) for value in mapping.values())
    return tensors > 0 and 2 * (tensors + numbers) > len(mapping)


def _quantised_entry(mapping: Mapping[Any, object]) -> str | None:
    """Return the name of an entry that only quantised layers have, if there is one."""
    return next((key for key in map(str, mapping) if key.endswith("_packed_params")), None)


def _is_quantised(value: object) -> bool:
    if isinstance(value, Opaque):
        return value.what == "a quantised tensor"
    return isinstance(value, Tensor) and value.is_quantized


def _preference(trail: tuple[str, ...]) -> tuple[int, ...]:
    unusual = len(USUAL_KEYS)
    return tuple(USUAL_KEYS.index(key) if key in USUAL_KEYS else unusual for key in trail)


def _clean(mapping: Mapping[str, object]) -> dict[str, Tensor]:
    """Return only the tensors, under their names in the file."""
    if (entry := _quantised_entry(mapping)) is not None:
        how = "quantised" if any(map(_is_quantised, mapping.values())) else "dynamically quantised"
        raise CheckpointError(
            f"the network in it is {how}: '{entry}' holds packed weights, not tensors",
            tip="compress the network as it was before it was quantised",
        )
    return {
        name: plain_tensor(name, value)
        for name, value in mapping.items()
        if is_tensor(value) or isinstance(value, np.generic)
    }


def _describe(loaded: object) -> str:
    if isinstance(loaded, Mapping):
        keys = [str(key) for key in loaded]
        shown = ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")
        return f"the keys {shown}" if keys else "nothing"
    if isinstance(loaded, (torch.Tensor, np.ndarray)):
        return f"a single tensor of shape {tuple(loaded.shape)}"
    if isinstance(loaded, (list, tuple)):
        return f"a {type(loaded).__name__} of {len(loaded)}"
    if isinstance(loaded, Opaque):
        return loaded.what
    return f"a {type(loaded).__name__}"


_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Selection:
    """The entries to read a network from; those in `spared` need not belong to it."""

    tensors: Mapping[str, Tensor]
    spared: Collection[str] = field(default_factory=frozenset)


def select_entries(
    tensors: Mapping[str, Tensor],
    *,
    strip_prefix: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Selection:
    """Leave entries out, and remove prefixes.

    Args:
        tensors: the state dict.
        strip_prefix: whole components before names, with or without a dot at the end; they are
            removed one after another. An entry that does not begin with the first of them is
            spared: it is used if the network has an entry of its name, and need not be
            explained otherwise.
        ignore: shell patterns of names in the file; matching entries are not used.

    Raises:
        OptionError: a pattern or a prefix matches nothing, most likely a typing error, or
            nothing is left.
    """
    kept = dict(tensors)
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in tensors):
            raise OptionError(f"--ignore {pattern} matches no entry", tip=_names_tip(tensors))
        kept = {name: tensor for name, tensor in kept.items() if not fnmatchcase(name, pattern)}
    if not kept:
        raise OptionError("--ignore leaves nothing of the checkpoint", tip="name fewer entries")
    if not strip_prefix:
        return Selection(kept)
    below = dict(kept)
    for prefix in strip_prefix:
        start = prefix.removesuffix(".") + "."
        stripped = {
            name.removeprefix(start): tensor
            for name, tensor in below.items()
            if name.startswith(start) and len(name) > len(start)
        }
        if not stripped:
            raise OptionError(
                f"--strip-prefix {prefix}: no name begins with it", tip=_names_tip(below)
            )
        below = stripped
    start = "".join(f"{prefix.removesuffix('.')}." for prefix in strip_prefix)
    beside = {
        name: tensor
        for name, tensor in kept.items()
        if name not in below and not name.startswith(start)
    }
    return Selection({**below, **beside}, frozenset(beside))


def _names_tip(tensors: Mapping[str, Tensor]) -> str:
    more = ", …" if len(tensors) > _SHOWN else ""
    return f"names in it are {', '.join(list(tensors)[:_SHOWN])}{more}"


_TIPS = {
    "a quantised tensor": "compress the network as it was before it was quantised",
    "a nested tensor": "save a padded one: .to_padded_tensor(0.0)",
    "a tensor without data (meta device)": "save it from a network that has its weights",
}


def is_tensor(value: object) -> TypeGuard[Tensor | np.ndarray | Opaque]:
    """Return whether a value is a tensor in any form, even in one that cannot be used."""
    if isinstance(value, Opaque):
        return value.tensor
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufc"
    return isinstance(value, Tensor)


def plain_tensor(name: str, value: Tensor | np.ndarray | np.generic | Opaque) -> Tensor:
    """Convert a value to a dense tensor that can be computed with.

    Args:
        name: the value's name, for messages.
        value: a tensor of any layout, a NumPy array or scalar, or an opaque value.

    Raises:
        CheckpointError: it has no numbers, or none that a dense tensor can hold.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return _from_numpy(value)
    what = value.what if isinstance(value, Opaque) else _what_hinders(value)
    if what is not None:
        raise CheckpointError(
            f"'{name}' is {what}: there is no dense tensor in it", tip=_TIPS.get(what)
        )
    assert isinstance(value, Tensor)  # noqa: S101 - for the type checker
    found = value.detach()
    return found if found.layout == torch.strided else found.to_dense()


def _what_hinders(tensor: Tensor) -> str | None:
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.is_meta:
        return "a tensor without data (meta device)"
    return None


def _from_numpy(value: np.ndarray | np.generic) -> Tensor:
    """Convert to a tensor; numbers of more than 64 bits become float64 or complex128."""
    array = np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    elif array.dtype.kind == "c" and array.dtype.itemsize > 16:
        array = array.astype(np.complex128)
    if not array.flags.writeable or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array)
