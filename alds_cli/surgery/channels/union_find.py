"""Channels that can only be removed together, as disjoint sets of single channels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from alds_cli.records import IntArray


class DisjointChannels:
    """Disjoint sets of channels, each with an integer id; a set stays or goes as a whole.

    A set with a frozen channel stays.
    """

    def __init__(self) -> None:
        from scipy.cluster.hierarchy import DisjointSet  # noqa: PLC0415 - slow to import

        self._sets = DisjointSet()
        self._frozen: set[int] = set()

    def fresh(self, count: int, *, frozen: bool = False) -> IntArray:
        """Make new channels, each in a set of its own, and return their ids (count,)."""
        ids = range(len(self._sets), len(self._sets) + count)
        for channel in ids:
            self._sets.add(channel)
        if frozen:
            self.freeze(ids)
        return np.array(ids, dtype=np.int64)

    def equate(self, some: IntArray, others: IntArray) -> None:
        """Join the sets of the i-th channels of two arrays (n,), for every i."""
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            self._sets.merge(one, other)

    def freeze(self, ids: Iterable[int]) -> None:
        """Mark channels as channels that must stay."""
        self._frozen.update(ids)

    def removable(self) -> dict[int, int]:
        """Return the number of its set for every channel that need not stay."""
        return {
            channel: number
            for number, members in enumerate(self._sets.subsets())
            if self._frozen.isdisjoint(members)
            for channel in members
        }


@dataclass(slots=True)
class ChannelMap:
    """The ids of the channels of every module, by its name and in the order of its channels.

    `outputs` are the filters of a dense layer, `inputs` its input channels, and `features` the
    channels of a module that treats each separately. `sets` says which go together.
    """

    sets: DisjointChannels = field(default_factory=DisjointChannels)
    outputs: dict[str, IntArray] = field(default_factory=dict)
    inputs: dict[str, IntArray] = field(default_factory=dict)
    features: dict[str, IntArray] = field(default_factory=dict)

    def filters(self, name: str, count: int) -> IntArray:
        """Return the ids of a layer's filters (count,), which are the same at every call."""
        if name not in self.outputs:
            self.outputs[name] = self.sets.fresh(count)
        return self.outputs[name]

    def feed(self, name: str, ids: IntArray) -> None:
        """Enter the input channels of a dense layer."""
        self._enter(self.inputs, name, ids)

    def pass_through(self, name: str, ids: IntArray) -> None:
        """Enter the channels of a normalisation or depthwise layer."""
        self._enter(self.features, name, ids)

    def _enter(self, table: dict[str, IntArray], name: str, ids: IntArray) -> None:
        if name in table:  # entered before, for example in evaluation mode
            self.sets.equate(table[name], ids)
        else:
            table[name] = ids
