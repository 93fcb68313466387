"""What is known about the values of a graph while channels are followed through it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx

from alds_cli.records import IntArray
from alds_cli.surgery.channels.graphs import UNKNOWN, TracedNetwork
from alds_cli.surgery.channels.union_find import Places

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tracked:
    """A tensor whose axis `axis` is made of channels: `atoms` (channels,) stand for them."""

    atoms: IntArray
    axis: int


@dataclass(frozen=True, slots=True)
class ShapeOf:
    """The shape of such a tensor of `ndim` axes, which tells how many channels it has."""

    of: Tracked
    ndim: int


@dataclass(frozen=True, slots=True)
class SizeOf:
    """A number of channels."""

    of: Tracked


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a traced pass.

    Attributes:
        node: of the graph.
        args: with `Tracked`, `ShapeOf` and `SizeOf` where that is known, None where a step
            gave something else.
        kwargs: the same of its named arguments.
        traced: the pass.
        places: where what is found is entered.
    """

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    traced: TracedNetwork
    places: Places

    @property
    def made(self) -> Shape | None:
        """The shape of the tensor that the step gives; None if it gives none."""
        return self._shape(self.node)

    def shape(self, index: int) -> Shape | None:
        """The shape of an argument; None if it is no tensor."""
        return self._shape(self.node.args[index]) if index < len(self.node.args) else None

    @property
    def takes_more_tensors(self) -> bool:
        """Whether there are tensors beside the first argument."""
        return any(
            isinstance(self.traced.value(node), Tensor)
            for node in self.node.all_input_nodes
            if node is not self.node.args[0]
        )

    def option(self, index: int, *names: str, default: Any = None) -> Any:
        """An argument by its place or by one of its names."""
        if index < len(self.args):
            return self.args[index]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def freeze(self, value: Any) -> None:
        """Let all channels in a value stay."""
        self.places.atoms.freeze(all_atoms(value).tolist())

    def unknown(self) -> None:
        """Let all channels that go in stay: nothing is known about what comes out."""
        self.freeze((self.args, self.kwargs))

    def computed(self, index: int) -> bool:
        """Whether an argument is something the network computed, of which no value is known."""
        argument = self.node.args[index]
        return isinstance(argument, fx.Node) and self.traced.value(argument) is UNKNOWN

    def _shape(self, value: Any) -> Shape | None:
        found = self.traced.value(value) if isinstance(value, fx.Node) else value
        return tuple(found.shape) if isinstance(found, Tensor) else None


def has_atoms(value: Any) -> bool:
    """Whether a value tells anything of channels."""
    return any(True for _ in _within(value))


def all_atoms(value: Any) -> IntArray:
    """The atoms of all tensors, shapes and sizes in a value, however nested: (n,)."""
    found = list(_within(value))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _within(value: Any) -> Iterator[IntArray]:
    if isinstance(value, Tracked):
        yield value.atoms
    elif isinstance(value, (ShapeOf, SizeOf)):
        yield value.of.atoms
    elif isinstance(value, dict):
        yield from _within(tuple(value.values()))
    elif isinstance(value, slice):
        yield from _within((value.start, value.stop, value.step))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _within(part)
