"""Proven bounds on the errors of pairs, from the tables, with an allowance for rounding."""

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
    """Return a proven bound on the error of a tabled choice: by the definition, or by `sum`.

    The error is that in the choice's own fold, relative to the norm of the weight so folded. A
    computed true error is not used, since another of several equally good approximations of a
    slice may be stored. The bound is at most 1, apart from rounding: Ŵ is W times a projection,
    so W − Ŵ has no larger norm than W.

    Args:
        table: the layer's table.
        choice: a choice in the table.
        definition: the error definition, which is used if it is one of `PROVEN_BOUNDS`.
        rounding: the most that rounding the pair's factors may add to the error.

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
    """Return a proven bound on the error of a tabled choice in the paper's fold.

    Let D be the difference between the weight and the pair. Scheme 0 places m blocks of rows of
    D as folded by the choice's scheme side by side, where m is how many times more rows that
    fold has. So ‖D‖₂ is at most √m times its value in the choice's own fold; at most ‖D‖_F,
    which is the same in all folds; and at most ‖W‖₂, because D is in every fold the weight times
    a projection of its columns.

    Args:
        table: the layer's table.
        choice: a choice in the table.
        definition: the error definition, which is used if it is one of `PROVEN_BOUNDS`.
        norm: ‖W‖₂ in the paper's fold, in the units of the table.
        rounding: as for `error_bound`, in the choice's own fold.

    Returns:
        A bound on ‖W − Ŵ‖₂ / ‖W‖₂, folded by scheme 0.

    Raises:
        KeyError: the table has no such choice.
    """
    in_own_fold = error_bound(table, choice, definition)
    if choice.scheme == OPERATOR:
        return in_own_fold + rounding
    row = table.row(choice)
    if norm <= 0 or row is None:
        return 0.0
    spec, scheme = table.spec, choice.scheme
    rows, _ = folded_shape(spec.weight_shape, scheme)
    across = sqrt(rows // spec.out_channels) * table.norms[scheme] / norm
    left_out = full_rank(spec.weight_shape, scheme, choice.k, spec.groups) - choice.j
    # The number of squares, each of which rounding may have changed by the table's slack.
    squares = float(table.tail_energy[row])
    squares += spec.groups * choice.k * left_out * table.slack[scheme]
    return min(across * in_own_fold, sqrt(squares) / norm, 1.0) + across * rounding


def rounding_of_factors(table: LayerTable, choice: Choice, dtype: torch.dtype) -> float:
    """Return the share of ‖W‖₂ by which rounding its factors may change the product of a pair.

    Let u be the unit roundoff and η the least number of the factors' type. An entry x of a factor
    changes by at most u·|x| + η. So the factor of r rows, whose columns are √σ_l times unit
    vectors, changes by at most √j·(u·√σ_1 + √r·η). Neither factor has a norm above √σ_1, and the
    k products stand side by side.
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
