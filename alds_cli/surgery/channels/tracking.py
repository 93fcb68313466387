"""Facts about the values in a graph that are known while channels are followed through it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx

from alds_cli.records import IntArray
from alds_cli.surgery.channels.graphs import UNKNOWN, TracedNetwork
from alds_cli.surgery.channels.union_find import ChannelMap

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tracked:
    """A tensor whose axis `axis` consists of channels with the given `ids` (channels,)."""

    ids: IntArray
    axis: int


@dataclass(frozen=True, slots=True)
class ShapeOf:
    """The shape of a tracked tensor with `ndim` axes; it contains the number of channels."""

    of: Tracked
    ndim: int


@dataclass(frozen=True, slots=True)
class SizeOf:
    """The number of channels of a tracked tensor."""

    of: Tracked


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a traced forward pass.

    Attributes:
        node: the node of the graph.
        args: its positional arguments. The result of another step is a `Tracked`, `ShapeOf` or
            `SizeOf` if it contains channels that are known, else None.
        kwargs: its keyword arguments, in the same form.
        traced: the forward pass.
        channel_map: where the channels of modules are entered.
    """

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    traced: TracedNetwork
    channel_map: ChannelMap

    @property
    def made(self) -> Shape | None:
        """The shape of the resulting tensor; None if the result is not a tensor."""
        return self._shape(self.node)

    def shape(self, index: int) -> Shape | None:
        """Return the shape of a positional argument, or None if it is not a tensor."""
        return self._shape(self.node.args[index]) if index < len(self.node.args) else None

    @property
    def takes_more_tensors(self) -> bool:
        """Whether arguments other than the first are tensors."""
        return any(
            isinstance(self.traced.value(node), Tensor)
            for node in self.node.all_input_nodes
            if node is not self.node.args[0]
        )

    def option(self, index: int, *names: str, default: Any = None) -> Any:
        """Return an argument by its position or by one of its names."""
        if index < len(self.args):
            return self.args[index]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def freeze(self, value: Any) -> None:
        """Mark all channels in a value as channels that must stay."""
        self.channel_map.sets.freeze(all_channels(value).tolist())

    def unknown(self) -> None:
        """Freeze all channels in the arguments, since nothing is known about the result."""
        self.freeze((self.args, self.kwargs))

    def computed(self, index: int) -> bool:
        """Return whether an argument is computed by the network and its value is not known."""
        argument = self.node.args[index]
        return isinstance(argument, fx.Node) and self.traced.value(argument) is UNKNOWN

    def _shape(self, value: Any) -> Shape | None:
        found = self.traced.value(value) if isinstance(value, fx.Node) else value
        return tuple(found.shape) if isinstance(found, Tensor) else None


def has_channels(value: Any) -> bool:
    """Return whether a value contains channels, however nested."""
    return any(True for _ in _within(value))


def all_channels(value: Any) -> IntArray:
    """Return the ids of the channels in a value, however nested: (n,)."""
    found = list(_within(value))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _within(value: Any) -> Iterator[IntArray]:
    if isinstance(value, Tracked):
        yield value.ids
    elif isinstance(value, (ShapeOf, SizeOf)):
        yield value.of.ids
    elif isinstance(value, dict):
        yield from _within(tuple(value.values()))
    elif isinstance(value, slice):
        yield from _within((value.start, value.stop, value.step))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _within(part)
