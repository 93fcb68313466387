"""What arithmetic does to channels: those that meet stay or go together."""

from __future__ import annotations

from typing import Any

import numpy as np

from alds_cli.surgery.channels.tracking import Step, Tracked, has_atoms
from alds_cli.surgery.channels.union_find import Places


def elementwise(step: Step) -> Any:
    """Every number for itself: the channels stay where they are."""
    if not step.args or not isinstance(step.args[0], Tracked) or step.takes_more_tensors:
        return step.unknown()
    step.freeze((step.args[1:], step.kwargs))
    return step.args[0]


def spatial(step: Step) -> Any:
    """Every channel for itself, if the channels are axis 1."""
    if step.args and isinstance(step.args[0], Tracked) and step.args[0].axis == 1:
        return elementwise(step)
    return step.unknown()


def binary(step: Step) -> Any:
    """Two tensors, or a tensor and a number."""
    if len(step.args) != 2 or has_atoms(step.kwargs):
        return step.unknown()
    own, other = (0, 1) if isinstance(step.args[0], Tracked) else (1, 0)
    tracked, operand = step.args[own], step.args[other]
    made, shape = step.made, step.shape(own)
    if not isinstance(tracked, Tracked) or made is None or shape is None:
        return step.unknown()
    # Broadcasting aligns axes from the right.
    from_right = len(shape) - tracked.axis
    result = Tracked(tracked.atoms, len(made) - from_right)
    facing = step.shape(other)
    if isinstance(operand, Tracked):
        if facing is None or len(facing) - operand.axis != from_right:
            return step.unknown()
        return Tracked(_met(step.places, tracked, operand), result.axis)
    if step.computed(other):
        return step.unknown()
    if facing is not None and len(facing) >= from_right and facing[-from_right] != 1:
        return step.unknown()  # as many numbers as there are channels, in the network itself
    step.freeze(operand)  # which may be a number of channels
    return result


def _met(places: Places, one: Tracked, other: Tracked) -> Any:
    """The atoms of the channels that two tensors give together."""
    if len(one.atoms) == len(other.atoms):
        places.atoms.equate(one.atoms, other.atoms)
        return one.atoms
    # One channel is spread over all of the other's.
    single, many = sorted((one, other), key=lambda tracked: len(tracked.atoms))
    places.atoms.freeze(single.atoms.tolist())
    return many.atoms


def concatenation(step: Step) -> Any:
    """Tensors one after another: along the channels, or each channel with its like."""
    tensors = step.option(0, "tensors")
    axis = step.option(1, "dim", "axis", default=0)
    made = step.made
    if made is None or not isinstance(axis, int) or not isinstance(tensors, (tuple, list)):
        return step.unknown()
    if not tensors or not all(isinstance(part, Tracked) for part in tensors):
        return step.unknown()
    first, *others = tensors
    if any(part.axis != first.axis for part in others):
        return step.unknown()
    if axis % len(made) == first.axis:
        return Tracked(np.concatenate([part.atoms for part in tensors]), first.axis)
    for part in others:
        step.places.atoms.equate(first.atoms, part.atoms)
    return first


def padding(step: Step) -> Any:
    """More positions; of more channels there are as many as the code says, so those stay."""
    widths, mode = step.option(1, "pad"), step.option(2, "mode", default="constant")
    within = step.shape(0)
    first = step.args[0] if step.args else None
    if not isinstance(first, Tracked) or within is None:
        return step.unknown()
    if not isinstance(widths, (tuple, list)) or has_atoms((step.args[1:], step.kwargs)):
        return step.unknown()
    place = 2 * (len(within) - 1 - first.axis)  # axes are padded from the last
    if first.axis == 0 or len(widths) > place + 2:
        return step.unknown()
    if len(widths) <= place:
        return first
    before, after = widths[place:]
    if mode != "constant" or not all(_is_count(width) for width in (before, after)):
        return step.unknown()
    fresh = step.places.atoms.fresh
    parts = [fresh(before, frozen=True), first.atoms, fresh(after, frozen=True)]
    return Tracked(np.concatenate(parts), first.axis)


def _is_count(width: Any) -> bool:
    return isinstance(width, int) and width >= 0
