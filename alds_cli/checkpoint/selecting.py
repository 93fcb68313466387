"""Which entries of a state dict are used, and under which names, as the user says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor

from alds_cli.errors import OptionError

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Selection:
    """Entries to read a network from; `spared` are those that need not belong to it."""

    tensors: Mapping[str, Tensor]
    spared: Collection[str] = field(default_factory=frozenset)


def select_entries(
    tensors: Mapping[str, Tensor],
    *,
    strip_prefix: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Selection:
    """Leave entries out and take prefixes off.

    Args:
        tensors: the state dict.
        strip_prefix: whole components that stand before names, with or without a dot at the
            end; they are taken off one after another. An entry that does not begin with the
            first of them is spared: it is used if the network has it under its own name, and
            need not be explained if not.
        ignore: shell patterns of names as they stand in the file; matching entries are not
            used.

    Raises:
        OptionError: a pattern or a prefix matches nothing, which is most likely a slip, or
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
