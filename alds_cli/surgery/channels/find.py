"""Finding the groups of channels of a network."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from torch import nn

from alds_cli.errors import ContractError
from alds_cli.records import IntArray
from alds_cli.surgery.channels.graphs import trace_graph
from alds_cli.surgery.channels.groups import ChannelGroup, Channels, Member
from alds_cli.surgery.channels.members import (
    NORMS,
    extents,
    role_of,
    untouchable,
)
from alds_cli.surgery.channels.propagation import follow
from alds_cli.surgery.channels.union_find import ChannelMap
from alds_cli.surgery.layer_contents import kernel_of

_log = logging.getLogger(__name__)

_Slot = tuple[str, str]
"""(table of `ChannelMap`, module): `outputs`, `inputs` or `features`, and the module's name."""


def find_channels(
    network: nn.Module, input_shape: tuple[int, ...], *, keep: Collection[str] = ()
) -> Channels:
    """Find every channel that can be removed, with all that has to be removed together with it.

    Args:
        network: the network, which is left unchanged; its values do not matter.
        input_shape: the shape of one sample.
        keep: names of layers whose filters must all stay; their inputs may be removed.

    Raises:
        ContractError: `torch.fx` cannot follow the network's code.
    """
    channel_map = ChannelMap()
    kept = untouchable(network)
    follow(trace_graph(network, input_shape), channel_map, kept)
    if _uncalled(network, channel_map):
        # Layers called in training only use channels, too, and must still fit when it resumes.
        try:
            training = trace_graph(network, input_shape, training=True)
        except ContractError as error:
            _log.info("in training mode: %s", error.message)
        else:
            follow(training, channel_map, kept)
    for name in keep:
        for table in (channel_map.outputs, channel_map.features):
            channel_map.sets.freeze(table.get(name, np.empty(0, np.int64)).tolist())
    return Channels(tuple(_groups(network, channel_map)), _members(network, channel_map))


def _uncalled(network: nn.Module, channel_map: ChannelMap) -> bool:
    """Return whether there are layers that are not called in evaluation mode."""
    seen = {*channel_map.outputs, *channel_map.inputs, *channel_map.features}
    return any(role_of(part) and name not in seen for name, part in network.named_modules())


def _members(network: nn.Module, channel_map: ChannelMap) -> dict[str, Member]:
    concerned = {*channel_map.outputs, *channel_map.inputs, *channel_map.features}
    return {n: _member(part) for n, part in network.named_modules() if n in concerned}


def _member(module: Any) -> Member:
    role = role_of(module)
    assert role is not None  # noqa: S101 - only modules with a role are entered
    outputs, inputs = extents(module)
    if isinstance(module, NORMS):
        first = next((t for t in (module.weight, module.running_mean) if t is not None), None)
        per_output = sum(p.numel() // outputs for p in module.parameters(recurse=False))
        buffers = sum(b.numel() // outputs for b in module.buffers(recurse=False) if b.ndim)
        return Member(
            role, outputs, inputs, 0, per_output, buffers, 4 if first is None else first.itemsize
        )
    kernel = prod(kernel_of(module))
    bias = int(module.bias is not None)
    return Member(role, outputs, inputs, kernel, bias, 0, module.weight.itemsize)


def _groups(network: nn.Module, channel_map: ChannelMap) -> list[ChannelGroup]:
    """Group the classes of channels by the modules that they belong to."""
    alike: dict[tuple[tuple[_Slot, int], ...], list[dict[_Slot, list[int]]]] = defaultdict(list)
    for slots in _classes(channel_map):
        standing = tuple((slot, len(indices)) for slot, indices in slots.items())
        alike[standing].append(slots)
    order = {name: number for number, (name, _) in enumerate(network.named_modules())}
    found = []
    for standing, channels in alike.items():
        arrays: dict[str, dict[str, IntArray]] = {"outputs": {}, "inputs": {}, "features": {}}
        for (table, name), _ in sorted(standing, key=lambda entry: order[entry[0][1]]):
            arrays[table][name] = np.array([slots[table, name] for slots in channels])
        found.append(ChannelGroup("", len(channels), **arrays))
    found.sort(key=lambda g: [(order[n], int(i.min())) for n, i in g.outputs.items()])
    return _named(found)


def _classes(channel_map: ChannelMap) -> list[dict[_Slot, list[int]]]:
    """List for every removable class its indices in each table and module, in filter order."""
    found: dict[int, dict[_Slot, list[int]]] = {}
    sets = channel_map.sets.removable()
    for table in ("outputs", "inputs", "features"):
        for name, ids in sorted(getattr(channel_map, table).items()):
            for index, channel in enumerate(ids.tolist()):
                if channel in sets:
                    slots = found.setdefault(sets[channel], {})
                    slots.setdefault((table, name), []).append(index)
    return [slots for slots in found.values() if any(table == "outputs" for table, _ in slots)]


def _named(groups: list[ChannelGroup]) -> list[ChannelGroup]:
    """Name each group by its first layer with filters; number the groups if that has several."""
    first = [next(iter(group.outputs)) for group in groups]
    several = Counter(first)
    seen: Counter[str] = Counter()
    named = []
    for name, group in zip(first, groups, strict=True):
        seen[name] += 1
        numbered = f"{name}#{seen[name]}" if several[name] > 1 else name
        named.append(replace(group, name=numbered))
    return named
