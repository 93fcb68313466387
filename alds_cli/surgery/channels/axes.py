"""The effect on the channel axis of operations that change a tensor's axes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from alds_cli.surgery.channels.tracking import (
    Shape,
    ShapeOf,
    SizeOf,
    Step,
    Tracked,
    has_channels,
)


def flattening(step: Step) -> Any:
    """Follow a flattening of several axes into one."""
    within = step.shape(0)
    start, end = step.option(1, "start_dim", default=0), step.option(2, "end_dim", default=-1)
    first = step.args[0] if step.args else None
    if not isinstance(first, Tracked) or within is None:
        return step.unknown()
    if not (isinstance(start, int) and isinstance(end, int)):
        return step.unknown()
    found = flattened(first, within, start, end)
    return step.unknown() if found is None else found


def flattened(given: Tracked, within: Shape, start: int, end: int) -> Tracked | None:
    """Merge the axes from `start` to `end` into one; return None if the channels are lost.

    If the channel axis is the first of them, each channel becomes as many neighbouring columns
    as it has positions.
    """
    start, end = start % len(within), end % len(within)
    if start >= end or end < given.axis:
        return Tracked(given.ids, given.axis - max(0, end - start))
    if start > given.axis:
        return given
    if start == given.axis:
        return Tracked(np.repeat(given.ids, prod(within[start + 1 : end + 1])), start)
    return None


def reshaping(step: Step) -> Any:
    """Follow a change of shape.

    Understood are (n, c, …) → (n, −1), and (n, c, …) → (n, c, …) if c is −1 or the size of a
    tensor's channel axis. A number of channels written in the code is not.
    """
    first, *rest = step.args or (None,)
    within, made = step.shape(0), step.made
    wanted = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
    if not isinstance(first, Tracked) or step.kwargs or within is None or made is None:
        return step.unknown()
    if first.axis != 1 or len(wanted) != len(made) or made[0] != within[0]:
        return step.unknown()
    if len(wanted) < 2 or has_channels((wanted[0], *wanted[2:])):
        return step.unknown()
    open_ended = isinstance(wanted[1], int) and wanted[1] == -1
    if len(made) == 2 and open_ended:
        return Tracked(np.repeat(first.ids, prod(within[2:])), 1)
    if made[1] != within[1] or not (open_ended or isinstance(wanted[1], SizeOf)):
        return step.unknown()
    if not open_ended:  # c is the size of some tensor, so its channels go together with these
        step.channel_map.sets.equate(wanted[1].of.ids, first.ids)
    return first


def permutation(step: Step) -> Any:
    """Follow a permutation of the axes."""
    first, *rest = step.args or (None,)
    order = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
    order = order or step.kwargs.get("dims", ())
    if not isinstance(first, Tracked) or not _are_axes(order):
        return step.unknown()
    return Tracked(first.ids, [axis % len(order) for axis in order].index(first.axis))


def transposition(step: Step) -> Any:
    """Follow an exchange of two axes."""
    first, *pair = step.args or (None,)
    within = step.shape(0)
    if not isinstance(first, Tracked) or within is None or len(pair) != 2 or not _are_axes(pair):
        return step.unknown()
    one, other = (axis % len(within) for axis in pair)
    return Tracked(first.ids, {one: other, other: one}.get(first.axis, first.axis))


def reduction(step: Step) -> Any:
    """Follow a reduction, such as a mean, over axes other than that of the channels."""
    first = step.args[0] if step.args else None
    within, made = step.shape(0), step.made
    gone = step.option(1, "dim", "axis")
    gone = (gone,) if isinstance(gone, int) else gone
    if not isinstance(first, Tracked) or within is None or made is None or not _are_axes(gone):
        return step.unknown()
    axes = {axis % len(within) for axis in gone}
    if first.axis in axes:
        return step.unknown()
    kept = len(made) == len(within)
    return first if kept else Tracked(first.ids, first.axis - sum(a < first.axis for a in axes))


def squeezing(step: Step) -> Any:
    """Follow the removal of an axis of size 1."""
    first = step.args[0] if step.args else None
    within, made, axis = step.shape(0), step.made, step.option(1, "dim")
    if not isinstance(first, Tracked) or within is None or made is None:
        return step.unknown()
    if not isinstance(axis, int) or axis % len(within) == first.axis:
        return step.unknown()  # whether the axis goes depends on the number of channels
    went = len(made) < len(within) and axis % len(within) < first.axis
    return Tracked(first.ids, first.axis - went)


def unsqueezing(step: Step) -> Any:
    """Follow the insertion of an axis of size 1."""
    first = step.args[0] if step.args else None
    made, axis = step.made, step.option(1, "dim")
    if not isinstance(first, Tracked) or made is None or not isinstance(axis, int):
        return step.unknown()
    return Tracked(first.ids, first.axis + (axis % len(made) <= first.axis))


def item(step: Step) -> Any:
    """Follow an index that selects positions of all channels, or an extent of a shape."""
    first, index = step.args
    if isinstance(first, ShapeOf):
        return _extent(step, first, index)
    if not isinstance(first, Tracked) or has_channels(index):
        return step.unknown()
    entries = index if isinstance(index, tuple) else (index,)
    whole = len(entries) <= first.axis or entries[first.axis] == slice(None)
    if whole and all(isinstance(entry, slice) for entry in entries):
        return first
    return step.unknown()


def size(step: Step) -> Any:
    """Follow a request for a tensor's shape, or for one extent of it."""
    first = step.args[0]
    within, axis = step.shape(0), step.option(1, "dim")
    if not isinstance(first, Tracked) or within is None:
        return step.unknown()
    shape = ShapeOf(first, len(within))
    return shape if axis is None else _extent(step, shape, axis)


def attribute(step: Step) -> Any:
    """Follow an attribute: a tensor's shape, or one that does not depend on its channels."""
    first, name = step.args[:2]
    within = step.shape(0)
    if isinstance(first, Tracked) and name == "shape" and within is not None:
        return ShapeOf(first, len(within))
    return None if name in FACTS else step.unknown()


FACTS = frozenset({"ndim", "dtype", "device", "is_cuda", "requires_grad"})
"""Attributes of a tensor that do not change when channels are removed."""


def fact(step: Step) -> None:
    """Follow a method whose result does not depend on a tensor's channels."""
    step.freeze(step.args[1:])


def maker(step: Step) -> None:
    """Follow the making of a new tensor; its shape must not change."""
    step.freeze((step.args[1:], step.kwargs))


def _extent(step: Step, shape: ShapeOf, index: Any) -> Any:
    """Follow an index into a shape, which selects one or several extents."""
    if has_channels(index) or not isinstance(index, (int, slice)):
        return step.unknown()
    taken = range(shape.ndim)[index]
    if isinstance(taken, int):
        return SizeOf(shape.of) if taken == shape.of.axis else None
    return step.unknown() if shape.of.axis in taken else None


def _are_axes(values: Any) -> bool:
    if not isinstance(values, (tuple, list)) or not values:
        return False
    return all(isinstance(value, int) for value in values)
