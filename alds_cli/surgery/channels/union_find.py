"""Channels that can only be removed together, by union-find over single ones: atoms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from alds_cli.records import IntArray


class DisjointChannels:
    """Every channel of every layer is an atom; equated atoms stay or go together.

    A frozen atom stays, and all that are equated with it.

    Source: Tarjan, "Efficiency of a good but not linear set union algorithm", J. ACM 1975.
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._frozen: list[bool] = []

    def fresh(self, count: int, *, frozen: bool = False) -> IntArray:
        """New atoms, each apart: (count,)."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        self._frozen.extend([frozen] * count)
        return np.arange(start, start + count, dtype=np.int64)

    def equate(self, some: IntArray, others: IntArray) -> None:
        """Let the atoms of two arrays (n,) stay or go in pairs."""
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            first, second = sorted((self._root(one), self._root(other)))
            self._parents[second] = first
            self._frozen[first] = self._frozen[first] or self._frozen[second]

    def freeze(self, atoms: Iterable[int]) -> None:
        """Let atoms stay."""
        for atom in atoms:
            self._frozen[self._root(int(atom))] = True

    def roots(self, atoms: IntArray) -> IntArray:
        """The atom that stands for each and all equated with it, (n,)."""
        return np.array([self._root(atom) for atom in atoms.tolist()], dtype=np.int64)

    def frozen(self, atom: int) -> bool:
        """Whether an atom stays."""
        return self._frozen[self._root(atom)]

    def _root(self, atom: int) -> int:
        root = atom
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[atom] != root:
            self._parents[atom], atom = root, self._parents[atom]
        return root


@dataclass(slots=True)
class Places:
    """The atoms of every module, by its name and in the order of its channels.

    `outputs` are a layer's filters, `inputs` what it takes, `features` the channels of a
    module that treats each apart.
    """

    atoms: DisjointChannels = field(default_factory=DisjointChannels)
    outputs: dict[str, IntArray] = field(default_factory=dict)
    inputs: dict[str, IntArray] = field(default_factory=dict)
    features: dict[str, IntArray] = field(default_factory=dict)

    def filters(self, name: str, count: int) -> IntArray:
        """The atoms of a layer's filters, the same whenever it is asked for: (count,)."""
        if name not in self.outputs:
            self.outputs[name] = self.atoms.fresh(count)
        return self.outputs[name]

    def feed(self, name: str, atoms: IntArray) -> None:
        """A layer takes these channels."""
        self._enter(self.inputs, name, atoms)

    def pass_through(self, name: str, atoms: IntArray) -> None:
        """A module treats each of these channels apart."""
        self._enter(self.features, name, atoms)

    def _enter(self, table: dict[str, IntArray], name: str, atoms: IntArray) -> None:
        if name in table:  # in training mode, say, what it is in evaluation mode too
            self.atoms.equate(table[name], atoms)
        else:
            table[name] = atoms
