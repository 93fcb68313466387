"""Groups of removable channels, and the parts of modules that stay when some are removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from alds_cli.records import IntArray, Kept
from alds_cli.surgery.channels.members import Role


@dataclass(frozen=True, slots=True)
class Member:
    """The sizes of a module that channels may be removed from.

    Attributes:
        role: how the module uses channels.
        outputs: number of output channels or features.
        inputs: number of input channels.
        per_connection: entries of the weight for each pair of output and input (κ1·κ2…), or
            for each channel of a depthwise layer.
        per_output: other parameters for each output: bias, scale and shift.
        buffers: entries of buffers for each output: running statistics.
        itemsize: bytes of a number.
    """

    role: Role
    outputs: int
    inputs: int
    per_connection: int
    per_output: int
    buffers: int
    itemsize: int

    def left(self, kept: Kept) -> tuple[int, int]:
        """Return how many (outputs, inputs) stay."""
        return (
            self.outputs if kept.outputs is None else len(kept.outputs),
            self.inputs if kept.inputs is None else len(kept.inputs),
        )


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that belong to the same modules; each can be removed from all of them at once.

    Channel i of the n in the group has the outputs `outputs[NAME][i]`, the inputs
    `inputs[NAME][i]` and the features `features[NAME][i]` of each module NAME. These are arrays
    (n, m), with m > 1 if a channel has several indices in a module, such as several columns of
    a linear layer after a flattening.

    Attributes:
        name: the first layer whose filters these are, with a number if it has several groups.
        size: n.
        outputs: filter indices, by dense layer that computes the channels.
        inputs: input indices, by dense layer that uses the channels.
        features: channel indices, by normalisation or depthwise layer.
    """

    name: str
    size: int
    outputs: Mapping[str, IntArray]
    inputs: Mapping[str, IntArray]
    features: Mapping[str, IntArray]


@dataclass(frozen=True, slots=True)
class Channels:
    """All groups of a network, and the modules that their channels belong to."""

    groups: tuple[ChannelGroup, ...]
    members: Mapping[str, Member]

    def without(self, removed: Mapping[str, IntArray]) -> dict[str, Kept]:
        """Return the channels that stay, for every module that changes.

        Args:
            removed: the channels to remove from each group, by the group's name.
        """
        outputs, inputs = self._removed(removed)
        left: dict[str, Kept] = {}
        for name, member in self.members.items():
            gone = outputs.get(name, set()), inputs.get(name, set())
            if any(gone):
                left[name] = Kept(_left(member.outputs, gone[0]), _left(member.inputs, gone[1]))
        return left

    def _removed(
        self, removed: Mapping[str, IntArray]
    ) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
        """Return the outputs and the inputs that are removed, by module name."""
        outputs: dict[str, set[int]] = {}
        inputs: dict[str, set[int]] = {}
        for group in self.groups:
            rows = removed.get(group.name, ())
            if len(rows) == 0:
                continue
            for table, places in (
                (outputs, group.outputs),
                (outputs, group.features),
                (inputs, group.inputs),
            ):
                for name, indices in places.items():
                    table.setdefault(name, set()).update(indices[rows].ravel().tolist())
        return outputs, inputs

    def removed_by(self, pruned: Mapping[str, Kept]) -> dict[str, IntArray]:
        """Return the channels of every group that a plan removes from their first module.

        A plan may remove a channel from some modules only. This shows when `without` these
        channels does not give the plan back.
        """
        found: dict[str, IntArray] = {}
        for group in self.groups:
            name, indices = next(iter(group.outputs.items()))
            kept = pruned.get(name, Kept()).outputs
            if kept is not None:
                gone = ~np.isin(indices, np.array(kept, dtype=np.int64)).any(axis=1)
                if gone.any():
                    found[group.name] = np.flatnonzero(gone)
        return found


def _left(count: int, gone: set[int]) -> tuple[int, ...] | None:
    """Return the indices that stay, or None if all do."""
    return tuple(index for index in range(count) if index not in gone) if gone else None
