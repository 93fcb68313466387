"""The contents of a file whose network is not known, as a table."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Group

from alds_cli.cli.interface import line, table
from alds_cli.text import count, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alds_cli.api import Contents, StoredTensor

_NUMBER = re.compile(r"(?<![^.])[0-9]+(?![^.])")
"""A component of a name that is a number, as in the names of a sequence's parts."""


@dataclass(slots=True)
class _Alike:
    """Modules with the same entries, whose names differ in numbers only."""

    names: list[str] = field(default_factory=list)
    entries: Sequence[tuple[str, tuple[int, ...], str]] = ()
    scalars: int = 0


def contents_table(found: Contents) -> Group:
    """Make a table with one row for all modules that differ only in the numbers in their names."""
    made = table(None, "name", "entries", "type", "times", "numbers", left=3)
    for alike in _grouped(found.tensors):
        dtypes = dict.fromkeys(dtype for _, _, dtype in alike.entries)
        made.add_row(
            _ranged(alike.names),
            ", ".join(f"{entry} {_shape(shape)}" for entry, shape, _ in alike.entries),
            ", ".join(dtypes),
            count(len(alike.names)),
            count(alike.scalars),
        )
    total = sum(tensor.scalars for tensor in found.tensors)
    head = f"{found.name}: {count(len(found.tensors))} tensors of a network that is not recognised"
    return Group(line(head), line(f"{count(total)} numbers, {size(found.nbytes)}"), made)


def _grouped(tensors: Sequence[StoredTensor]) -> Iterator[_Alike]:
    modules: dict[str, list[StoredTensor]] = {}
    for tensor in tensors:
        modules.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)
    alike: dict[object, _Alike] = {}
    for module, stored in modules.items():
        entries = tuple((each.name.rpartition(".")[2], each.shape, each.dtype) for each in stored)
        group = alike.setdefault((_NUMBER.sub("#", module), entries), _Alike())
        group.names.append(module)
        group.entries = entries
        group.scalars += sum(each.scalars for each in stored)
    yield from alike.values()


def _ranged(names: Sequence[str]) -> str:
    """Merge several names into one: differing numbers become a range."""
    columns = list(zip(*(name.split(".") for name in names), strict=True))
    return ".".join(_span(column) for column in columns)


def _span(column: Sequence[str]) -> str:
    distinct = dict.fromkeys(column)
    if len(distinct) == 1:
        return column[0]
    # Numbers may be too long for `int`.
    ordered = sorted(distinct, key=lambda digits: (len(digits.lstrip("0")), digits.lstrip("0")))
    return f"{ordered[0]}–{ordered[-1]}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
