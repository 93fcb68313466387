"""Partial selections: an option each for some of the layers, many of them side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alds_cli.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Partial:
    """Partial selections: values in fixed point, costs, reduced values, and how they arose.

    `history` holds for every layer merged the parents' rows and the positions chosen.
    """

    numbers: IntArray
    costs: IntArray
    reduced: FloatArray
    history: tuple[tuple[IntArray, IntArray], ...]

    @classmethod
    def empty(cls, resources: int) -> Partial:
        """The one selection of nothing."""
        return cls(np.zeros(1, np.int64), np.zeros((1, resources), np.int64), np.zeros(1), ())

    def times(
        self, positions: IntArray, numbers: IntArray, costs: IntArray, reduced: FloatArray
    ) -> Partial:
        """Every partial selection with every one of a layer's options."""
        rows = np.repeat(np.arange(len(self.numbers)), len(positions))
        return Partial(
            (self.numbers[:, None] + numbers).ravel(),
            (self.costs[:, None] + costs).reshape(-1, costs.shape[1]),
            (self.reduced[:, None] + reduced).ravel(),
            (*self.history, (rows, np.tile(positions, len(self.numbers)))),
        )

    def at(self, rows: IntArray) -> Partial:
        """Some of the partial selections."""
        *before, (parents, positions) = self.history
        latest = (parents[rows], positions[rows])
        return Partial(self.numbers[rows], self.costs[rows], self.reduced[rows], (*before, latest))

    def traced(self, row: int) -> list[int]:
        """The positions that a partial selection consists of, by step."""
        found = []
        for parents, positions in reversed(self.history):
            found.append(int(positions[row]))
            row = int(parents[row])
        return found[::-1]
