"""The options of a layer that no other dominates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alds_cli.allocation.options import LayerOptions
from alds_cli.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Frontier:
    """The options of a layer that no other dominates: costs rise, errors strictly fall.

    `indices` points into the `LayerOptions` it was made from.
    """

    costs: IntArray
    errors: FloatArray
    indices: IntArray

    def cheapest(self, level: float) -> int:
        """Position of the cheapest option whose error is at most `level` ≥ 0."""
        return int(np.searchsorted(-self.errors, -level))


def frontier(options: LayerOptions) -> Frontier:
    """Drop dominated options; of equals the first by (scheme, k, j) stays."""
    scheme, k, j = options.choices.T
    order = np.lexsort((j, k, scheme, options.errors, options.costs[:, 0]))
    errors = options.errors[order]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(errors)[:-1]])
    kept = order[errors < best_before]
    return Frontier(options.costs[kept, 0], options.errors[kept], kept)
