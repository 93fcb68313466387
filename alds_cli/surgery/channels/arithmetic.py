"""The effect of arithmetic on channels: channels that are combined stay or go together."""

from __future__ import annotations

from typing import Any

import numpy as np

from alds_cli.surgery.channels.tracking import Step, Tracked, has_channels
from alds_cli.surgery.channels.union_find import ChannelMap


def elementwise(step: Step) -> Any:
    """Follow an operation on single numbers, which leaves the channel axis as it is."""
    if not step.args or not isinstance(step.args[0], Tracked) or step.takes_more_tensors:
        return step.unknown()
    step.freeze((step.args[1:], step.kwargs))
    return step.args[0]


def spatial(step: Step) -> Any:
    """Follow an operation that treats every channel of axis 1 separately."""
    if step.args and isinstance(step.args[0], Tracked) and step.args[0].axis == 1:
        return elementwise(step)
    return step.unknown()


def binary(step: Step) -> Any:
    """Follow an operation on two tensors, or on a tensor and a number."""
    if len(step.args) != 2 or has_channels(step.kwargs):
        return step.unknown()
    position, other = (0, 1) if isinstance(step.args[0], Tracked) else (1, 0)
    tracked, operand = step.args[position], step.args[other]
    made, shape = step.made, step.shape(position)
    if not isinstance(tracked, Tracked) or made is None or shape is None:
        return step.unknown()
    # Broadcasting aligns axes from the right.
    from_right = len(shape) - tracked.axis
    result = Tracked(tracked.ids, len(made) - from_right)
    facing = step.shape(other)
    if isinstance(operand, Tracked):
        if facing is None or len(facing) - operand.axis != from_right:
            return step.unknown()
        return Tracked(_met(step.channel_map, tracked, operand), result.axis)
    if step.computed(other):
        return step.unknown()
    if facing is not None and len(facing) >= from_right and facing[-from_right] != 1:
        return step.unknown()  # a tensor of the network that has a number for each channel
    step.freeze(operand)  # it may be the number of channels of a tensor
    return result


def _met(channel_map: ChannelMap, one: Tracked, other: Tracked) -> Any:
    """Combine the channels of two tensors and return the ids of the result's channels."""
    if len(one.ids) == len(other.ids):
        channel_map.sets.equate(one.ids, other.ids)
        return one.ids
    # One channel is broadcast over all channels of the other tensor.
    single, many = sorted((one, other), key=lambda tracked: len(tracked.ids))
    channel_map.sets.freeze(single.ids.tolist())
    return many.ids


def concatenation(step: Step) -> Any:
    """Follow a concatenation, along the channels or along another axis."""
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
        return Tracked(np.concatenate([part.ids for part in tensors]), first.axis)
    for part in others:
        step.channel_map.sets.equate(first.ids, part.ids)
    return first


def padding(step: Step) -> Any:
    """Follow a padding; channels that it adds are fixed in the code, so they must stay."""
    widths, mode = step.option(1, "pad"), step.option(2, "mode", default="constant")
    within = step.shape(0)
    first = step.args[0] if step.args else None
    if not isinstance(first, Tracked) or within is None:
        return step.unknown()
    if not isinstance(widths, (tuple, list)) or has_channels((step.args[1:], step.kwargs)):
        return step.unknown()
    place = 2 * (len(within) - 1 - first.axis)  # widths begin with the last axis
    if first.axis == 0 or len(widths) > place + 2:
        return step.unknown()
    if len(widths) <= place:
        return first
    before, after = widths[place:]
    if mode != "constant" or not all(_is_count(width) for width in (before, after)):
        return step.unknown()
    fresh = step.channel_map.sets.fresh
    parts = [fresh(before, frozen=True), first.ids, fresh(after, frozen=True)]
    return Tracked(np.concatenate(parts), first.axis)


def _is_count(width: Any) -> bool:
    return isinstance(width, int) and width >= 0
