"""Channels that can only be removed together, as disjoint sets of single channels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from alds_cli.records import IntArray


class DisjointChannels:
    """Disjoint sets of channels, each with an integer id; a set stays or goes as a whole.

    A set with a frozen channel stays.

    Source: Tarjan, "Efficiency of a good but not linear set union algorithm", J. ACM 1975.
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._frozen: list[bool] = []

    def fresh(self, count: int, *, frozen: bool = False) -> IntArray:
        """Make new channels, each in a set of its own, and return their ids (count,)."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        self._frozen.extend([frozen] * count)
        return np.arange(start, start + count, dtype=np.int64)

    def equate(self, some: IntArray, others: IntArray) -> None:
        """Join the sets of the i-th channels of two arrays (n,), for every i."""
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            first, second = sorted((self._root(one), self._root(other)))
            self._parents[second] = first
            self._frozen[first] = self._frozen[first] or self._frozen[second]

    def freeze(self, ids: Iterable[int]) -> None:
        """Mark channels as channels that must stay."""
        for channel in ids:
            self._frozen[self._root(int(channel))] = True

    def roots(self, ids: IntArray) -> IntArray:
        """Return for each channel the id that represents its set, (n,)."""
        return np.array([self._root(channel) for channel in ids.tolist()], dtype=np.int64)

    def frozen(self, channel: int) -> bool:
        """Return whether a channel must stay."""
        return self._frozen[self._root(channel)]

    def _root(self, channel: int) -> int:
        root = channel
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[channel] != root:
            self._parents[channel], channel = root, self._parents[channel]
        return root


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
