"""Dropping what is nowhere better than something else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alds_cli.records import FloatArray, IntArray

_BLOCK = 256


def undominated(values: IntArray, costs: IntArray, slack: int = 0) -> IntArray:
    """Indices of the rows for which no other has value and costs at most as large.

    Of rows alike the first stays.

    Args:
        values: (n,).
        costs: (n, D).
        slack: by so much a row's value must be above another's to be dominated by it;
            for values known to that accuracy only.

    Returns:
        The kept rows in the order of their values for D > 1, of their costs for D = 1.
    """
    if costs.shape[1] == 1:
        order = np.lexsort((values, costs[:, 0]))
        ordered = values[order]
        kept = np.ones(len(order), dtype=np.bool_)
        kept[1:] = ordered[1:] < np.minimum.accumulate(ordered)[:-1] + slack
        return order[kept]
    order = np.lexsort((*costs.T[::-1], values))
    rows = np.column_stack([values, costs])[order]
    found, standing = [np.zeros(0, np.int64)], rows[:0]
    for start in range(0, len(rows), _BLOCK):
        block, own = rows[start : start + _BLOCK], order[start : start + _BLOCK]
        alive = ~_beaten(standing, block, slack).any(axis=0)
        block, own = block[alive], own[alive]
        # Within the block only those that come before can dominate: the others have a
        # larger value or cost, or are alike and later.
        alive = ~np.triu(_beaten(block, block, slack), 1).any(axis=0)
        standing = np.concatenate([standing, block[alive]])
        found.append(own[alive])
    return np.concatenate(found)


def _beaten(by: IntArray, rows: IntArray, slack: int) -> NDArray[np.bool_]:
    """Entry (i, j): whether row i of `by` is nowhere above row j of `rows`."""
    beaten = by[:, :1] + slack <= rows[:, 0]
    for column in range(1, rows.shape[1]):
        beaten &= by[:, column, None] <= rows[:, column]
    return beaten


def undominated_options(errors: FloatArray, costs: IntArray) -> IntArray:
    """Indices of the options (n,) that no other equals or beats in error and all costs (n, D)."""
    _, ranks = np.unique(errors, return_inverse=True)
    return undominated(ranks.astype(np.int64), costs)
