"""A layer's table of options, cheapest first, made from curves over the rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ldexp, prod, sqrt
from typing import Any

import numpy as np

from alds_cli.numerics.costs import full_rank, rank_params
from alds_cli.numerics.fold import folded_shape
from alds_cli.records import (
    Curve,
    FloatArray,
    IntArray,
    LayerSpec,
    LayerTable,
)

MEASURES = ("sum_squares", "largest", "tail_energy", "saved")
"""The columns of a table that are taken from a curve."""

_COLUMNS = ("choices", "costs", *MEASURES, "exact")


def empty_table(spec: LayerSpec, exponent: int = 0) -> LayerTable:
    """Return a table without options and schemes, for 2**-exponent times the weight."""
    choices, costs, none = np.zeros((0, 3), np.int64), np.zeros(0, np.int64), np.zeros(0)
    return LayerTable(spec, {}, {}, {}, choices, costs, none, none, none, none, none, exponent)


def with_scheme(
    table: LayerTable, scheme: int, norm: float, curves: Mapping[int, Curve], slack: float
) -> LayerTable:
    """Return the table with the options of one more folding scheme.

    Args:
        table: the layer's table, without that scheme.
        scheme: the folding scheme.
        norm: σ_1 of the weight so folded.
        curves: the curves by number of slices k. 1 must be among them, unless there are none
            because no pair is smaller than the layer.
        slack: the most by which rounding may have moved a squared singular value.
    """
    if not curves:
        energy, columns = 0.0, {}
    else:
        energy = float(curves[1].tail_energy[0])
        columns = _columns_of(table, scheme, curves)
    return replace(
        table,
        norms={**table.norms, scheme: norm},
        energies={**table.energies, scheme: energy},
        slack={**table.slack, scheme: slack},
        **columns,
    )


def _columns_of(table: LayerTable, scheme: int, curves: Mapping[int, Curve]) -> dict[str, Any]:
    """Return the columns of a table with the options of one more scheme."""
    grid = _grid(table.spec.weight_shape, table.spec.groups, scheme, tuple(sorted(curves)))
    fresh: dict[str, FloatArray | IntArray] = {
        "choices": grid.choices,
        "costs": grid.costs,
        "exact": np.full(len(grid.costs), np.nan),
    }
    for name in MEASURES:
        column = np.concatenate([getattr(curves[k], name) for k in sorted(curves)])
        fresh[name] = column[grid.sources]
    return fresh if not len(table.costs) else _merged(table, fresh)


def _merged(
    table: LayerTable, fresh: Mapping[str, FloatArray | IntArray]
) -> dict[str, FloatArray | IntArray]:
    """Return the columns of a table with further rows, in order."""
    columns = {name: np.concatenate([getattr(table, name), fresh[name]]) for name in _COLUMNS}
    scheme, k, j = columns["choices"].T
    order = np.lexsort((j, k, scheme, columns["costs"]))
    return {name: column[order] for name, column in columns.items()}


def with_exact(table: LayerTable, rows: Iterable[int], errors: Iterable[float]) -> LayerTable:
    """Return the table with true errors ‖W − Ŵ‖₂ filled in at some rows."""
    exact = table.exact.copy()
    exact[list(rows)] = list(errors)
    return replace(table, exact=exact)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The options of a shape and scheme, and their positions in its curves laid end to end."""

    choices: IntArray
    costs: IntArray
    sources: IntArray


@lru_cache(maxsize=512)
def _grid(shape: tuple[int, ...], groups: int, scheme: int, ks: tuple[int, ...]) -> _Grid:
    """Return the options that shrink a layer, cheapest first; equal layers share the arrays."""
    lengths = np.array([full_rank(shape, scheme, k, groups) + 1 for k in ks])
    ends = np.cumsum(lengths)
    j = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    k = np.repeat(np.array(ks), lengths)
    costs = j * rank_params(*folded_shape(shape, scheme), k, groups)
    (smaller,) = np.nonzero((j > 0) & (costs < prod(shape)))
    sources = smaller[np.lexsort((j[smaller], k[smaller], costs[smaller]))]
    choices = np.stack([np.full(len(sources), scheme), k[sources], j[sources]], axis=1)
    for array in (choices, found := costs[sources], sources):
        array.setflags(write=False)
    return _Grid(choices, found, sources)


UNIT_ROUNDOFF = 2.0**-53


def rounding_share(terms: int) -> float:
    """Return the share of the trace by which eigenvalues of a Gram matrix in float64 may be off.

    It is about √terms unit roundoffs: sums of `terms` products are rounded, and the eigenvalue
    routine is backward stable.
    """
    return 8 * sqrt(terms) * UNIT_ROUNDOFF


def curve_of(eigenvalues: FloatArray, terms: int, exponent: int, solved: float = 0.0) -> Curve:
    """Return eigenvalues of scaled Gram matrices, largest first, as a curve over j = 0 … n.

    The most that rounding may have taken is added, so that upper bounds remain upper bounds.

    Args:
        eigenvalues: (groups, k, n).
        terms: the number of terms over which a sum may have been rounded.
        exponent: exponent of the power of two that the matrix was divided by.
        solved: the share of the largest eigenvalue by which a routine of less than double
            precision may have moved them all.
    """
    exact = np.maximum(eigenvalues, 0.0)
    raised = exact + rounding_share(terms) * exact.sum(axis=2, keepdims=True)
    if solved:
        raised += solved * exact[:, :, :1]
    sums = raised.sum(axis=1)
    # One more entry for full rank, where nothing is lost.
    squares, largest, tails, saved = np.zeros((4, sums.shape[1] + 1))
    sums.max(axis=0, out=squares[:-1])
    np.sqrt(raised.max(axis=(0, 1)), out=largest[:-1])
    exact.sum(axis=(0, 1))[::-1].cumsum(out=tails[-2::-1])
    sums.sum(axis=0, out=saved[:-1])
    if exponent:
        largest *= ldexp(1.0, exponent)
        for energies in (squares, tails, saved):
            np.multiply(energies, ldexp(1.0, 2 * exponent), out=energies)
    return Curve(squares, largest, tails, saved)
