"""What identifies a network in a state dict: names and shapes, with free places left open.

A network's *needed* entries are its state dict without the buffers that follow from
the rest. A *slot* is a place in a needed entry's shape that a constructor argument
sets, such as the rows of a classifier. The digest of a network is taken over its
needed entries with the slots left open, so it is the same for every number of classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]
"""The entries of a state dict: full name to shape."""

DERIVED_BUFFERS = frozenset(
    {
        "inv_freq",
        "num_batches_tracked",
        "position_ids",
        "relative_coords_table",
        "relative_position_index",
    }
)
"""Buffers, by the last part of their names, that a constructor fills and training leaves
alone, or that play no part in inference; a checkpoint may lack them."""

SAMPLE_SIZE = 48
"""Entries kept of each network to estimate how near a checkpoint is to it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Entry `name` has extent `factor` × argument along `axis`."""

    name: str
    axis: int
    factor: int


@dataclass(frozen=True, slots=True)
class FreeArgument:
    """A constructor argument that can be read off the shapes, and where it shows."""

    name: str
    default: int
    slots: tuple[Slot, ...]

    def read(self, shapes: Shapes) -> int | None:
        """Give the argument's value in `shapes`, None where its slots do not agree on one."""
        values = {_value(slot, shapes.get(slot.name, ())) for slot in self.slots}
        return values.pop() if len(values) == 1 else None


def _value(slot: Slot, shape: tuple[int, ...]) -> int | None:
    if slot.axis >= len(shape):
        return None
    value, remainder = divmod(shape[slot.axis], slot.factor)
    return value if value > 0 and remainder == 0 else None


def is_derived(name: str) -> bool:
    """Whether a checkpoint may lack the entry `name`."""
    return name.rpartition(".")[2] in DERIVED_BUFFERS


def needed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Leave out the entries that a checkpoint may lack."""
    return {name: tuple(shape) for name, shape in shapes.items() if not is_derived(name)}


def digest(shapes: Shapes, free: Iterable[FreeArgument]) -> str:
    """Hash needed `shapes` with the slots of `free` left open, whatever their order.

    Returns:
        128 bits in hexadecimal.
    """
    extents = {name: [str(extent) for extent in shape] for name, shape in shapes.items()}
    for argument in free:
        for slot in argument.slots:
            extents[slot.name][slot.axis] = f"{slot.factor}*{argument.name}"
    lines = (f"{name}:{'x'.join(extents[name])}\n" for name in sorted(extents))
    return hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest()


def tokens(shapes: Shapes) -> dict[str, str]:
    """Hash each entry: 32 bits of its name to 16 bits of its shape, both in hexadecimal."""
    return {_hash(name, 4): _hash("x".join(map(str, shape)), 2) for name, shape in shapes.items()}


def sample(shapes: Shapes, free: Iterable[FreeArgument]) -> dict[str, str]:
    """Choose at most `SAMPLE_SIZE` tokens of needed `shapes`, none of an entry with a slot.

    The choice is by the smallest hashes of the names. It is therefore even, and the
    same for networks that share their names: the bottom-k sketch of Broder, "On the
    resemblance and containment of documents", 1997.
    """
    open_names = {slot.name for argument in free for slot in argument.slots}
    closed = {name: shape for name, shape in shapes.items() if name not in open_names}
    return dict(sorted(tokens(closed).items())[:SAMPLE_SIZE])


def _hash(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()
