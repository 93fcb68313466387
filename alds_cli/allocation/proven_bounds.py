"""Proven bounds on the errors of pairs, from the tables; what rounding may add is counted in."""

from __future__ import annotations

from math import sqrt

import torch

from alds_cli.allocation.problem import ERROR_DEFINITIONS
from alds_cli.numerics.costs import full_rank
from alds_cli.numerics.fold import folded_shape
from alds_cli.numerics.option_tables import UNIT_ROUNDOFF
from alds_cli.records import Choice, LayerTable
from alds_cli.schemes import OPERATOR

PROVEN_BOUNDS = ("sum", "theorem1")
"""The definitions that are upper bounds on ‖W − Ŵ‖₂ / ‖W‖₂."""


def error_bound(table: LayerTable, choice: Choice, definition: str, rounding: float = 0.0) -> float:
    """A proven bound on the error of a tabled choice: the definition's own, or `sum`.

    The error is that in the choice's own fold, relative to the norm of the weight so folded.
    Not the error where it was computed: among several best approximations of a slice another
    one may be written. Never above 1, rounding aside: Ŵ is W times a projection, so what is left
    has no larger norm than W.

    Args:
        table: of the layer.
        choice: one of the table's.
        definition: the error definition to use if it is a proven bound.
        rounding: by how much rounding the pair's halves may add to the error.

    Raises:
        KeyError: the table has no such choice.
    """
    row = table.row(choice)
    if row is None:
        raise KeyError(choice)
    proven = definition if definition in PROVEN_BOUNDS else "sum"
    return min(float(ERROR_DEFINITIONS[proven](table)[row]), 1.0) + rounding


def operator_bound(
    table: LayerTable, choice: Choice, definition: str, norm: float, rounding: float = 0.0
) -> float:
    """A proven bound on the error of a tabled choice in the paper's fold, whatever its own is.

    With D what the pair leaves of the weight, scheme 0 puts m blocks of rows of another scheme's
    D side by side, m being how many times more rows that has. So ‖D‖₂ is at most √m times what
    it is in the choice's own fold; at most ‖D‖_F, which is the same in all folds; and at most
    ‖W‖₂, because D is in every fold the weight times a projection of its columns.

    Args:
        table: of the layer.
        choice: one of the table's.
        definition: the error definition to use if it is a proven bound, else `sum`.
        norm: ‖W‖₂ in the paper's fold, in the units of the table.
        rounding: as `error_bound` takes it, for the choice's own fold.

    Returns:
        A bound on ‖W − Ŵ‖₂ / ‖W‖₂, folded by scheme 0.

    Raises:
        KeyError: the table has no such choice.
    """
    own = error_bound(table, choice, definition)
    if choice.scheme == OPERATOR:
        return own + rounding
    row = table.row(choice)
    if norm <= 0 or row is None:
        return 0.0
    spec, scheme = table.spec, choice.scheme
    rows, _ = folded_shape(spec.weight_shape, scheme)
    across = sqrt(rows // spec.out_channels) * table.norms[scheme] / norm
    left_out = full_rank(spec.weight_shape, scheme, choice.k, spec.groups) - choice.j
    # Of so many squares, each of which rounding may have moved by the table's slack.
    squares = float(table.tail_energy[row])
    squares += spec.groups * choice.k * left_out * table.slack[scheme]
    return min(across * own, sqrt(squares) / norm, 1.0) + across * rounding


def rounding_of_factors(table: LayerTable, choice: Choice, dtype: torch.dtype) -> float:
    """By what share of ‖W‖₂ the product of a pair's halves may be off for their being rounded.

    With u the unit roundoff and η the least number of their type, an entry x of a half is off by
    at most u·|x| + η, and so the half of r rows, whose columns are √σ_l times unit vectors, by
    √j·(u·√σ_1 + √r·η). Neither half has a norm above √σ_1, and the k products stand side by side.
    """
    spec, k, j = table.spec, choice.k, choice.j
    norm = table.norms[choice.scheme]
    if norm <= 0:
        return 0.0
    rows, columns = folded_shape(spec.weight_shape, choice.scheme)
    sides = rows // spec.groups, columns // k
    info = torch.finfo(dtype)
    unit = info.eps / 2 + 4 * sum(sides) * UNIT_ROUNDOFF  # the latter for computing them
    least = info.smallest_normal * info.eps / (sqrt(norm) * 2.0 ** (table.exponent // 2))
    first, second = (sqrt(j) * (unit + sqrt(side) * least) for side in sides)
    share: float = sqrt(k) * (first + second + first * second)
    return share
