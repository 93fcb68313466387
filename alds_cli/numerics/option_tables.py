"""From curves over the rank to a layer's table of options, cheapest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from alds_cli.numerics.fold import folded_shape
from alds_cli.records import Curve, FloatArray, IntArray, LayerSpec, LayerTable

MEASURES = ("sum_squares", "largest", "tail_energy", "saved")
"""The columns of a table that a curve gives."""

_COLUMNS = ("choices", "costs", *MEASURES, "exact")


def empty_table(spec: LayerSpec) -> LayerTable:
    """A table without options, of no scheme."""
    choices, costs, none = np.zeros((0, 3), np.int64), np.zeros(0, np.int64), np.zeros(0)
    return LayerTable(spec, {}, {}, {}, choices, costs, none, none, none, none, none)


def with_scheme(
    table: LayerTable, scheme: int, norm: float, curves: Mapping[int, Curve], slack: float
) -> LayerTable:
    """The table with the options of one folding scheme added.

    Args:
        table: of the layer, without that scheme.
        scheme: the folding scheme.
        norm: σ_1 of the weight so folded.
        curves: by number of slices k; 1 must be among them.
        slack: by how much rounding may have moved a squared singular value.
    """
    pieces = [_rows(table.spec, scheme, k, curve) for k, curve in curves.items()]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(table, name), *(piece[name] for piece in pieces)])
        for name in _COLUMNS
    }
    scheme_column, k, j = columns["choices"].T
    order = np.lexsort((j, k, scheme_column, columns["costs"]))
    return replace(
        table,
        norms={**table.norms, scheme: norm},
        energies={**table.energies, scheme: float(curves[1].tail_energy[0])},
        slack={**table.slack, scheme: slack},
        **{name: column[order] for name, column in columns.items()},
    )


def with_exact(table: LayerTable, rows: Iterable[int], errors: Iterable[float]) -> LayerTable:
    """The table with true errors ‖W − Ŵ‖₂ filled in at some rows."""
    exact = table.exact.copy()
    exact[list(rows)] = list(errors)
    return replace(table, exact=exact)


def option_costs(spec: LayerSpec, choices: IntArray) -> IntArray:
    """Parameters (n,) of the pairs of choices (n, 3), the bias left out; 0 for no choice."""
    scheme, k, j = choices.T
    costs = np.zeros(len(choices), np.int64)
    for number in np.unique(scheme):
        own = scheme == number
        rows, columns = folded_shape(spec.weight_shape, int(number))
        costs[own] = j[own] * (k[own] * rows + spec.groups * columns)
    return costs


def _rows(spec: LayerSpec, scheme: int, k: int, curve: Curve) -> dict[str, FloatArray | IntArray]:
    """The columns of the ranks with which k slices shrink the layer."""
    choices = np.empty((len(curve.largest) - 1, 3), np.int64)
    choices[:, 0], choices[:, 1], choices[:, 2] = scheme, k, np.arange(1, len(choices) + 1)
    costs = option_costs(spec, choices)
    count = int(np.searchsorted(costs, spec.weight_params))  # they rise with the rank
    measured = {name: getattr(curve, name)[1 : count + 1] for name in MEASURES}
    unknown = np.full(count, np.nan)
    return {"choices": choices[:count], "costs": costs[:count], **measured, "exact": unknown}
