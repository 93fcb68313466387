"""What "error" means: the measures of a layer's options that an allocation may minimise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from alds_cli.records import Choice, FloatArray, LayerTable


def _sum_bound(table: LayerTable) -> FloatArray:
    """sqrt(Σ_i σ²_{i,j+1}): the norm of a row of blocks is at most that of their norms."""
    return _relative(np.sqrt(table.sum_squares), _by_row(table, table.norms))


def _theorem1_bound(table: LayerTable) -> FloatArray:
    """√k · max_i σ_{i,j+1}: Theorem 1 of Liebenwein et al., NeurIPS 2021."""
    k = table.choices[:, 1]
    return _relative(np.sqrt(k) * table.largest, _by_row(table, table.norms))


def _published_code(table: LayerTable) -> FloatArray:
    """max_i σ_{i,j+1}, as the paper's published code has it: not a bound for k > 1."""
    return _relative(table.largest, _by_row(table, table.norms))


def _exact(table: LayerTable) -> FloatArray:
    """‖W − Ŵ‖₂ where it is known, else a bound from below.

    A slice is a part of the matrix, so the norm is at least max_i σ_{i,j+1}, less what that was
    raised by to be an upper bound (`numerics.spectra`). None is above 1.
    """
    raised = _by_row(table, table.slack)
    below = np.sqrt(np.maximum(np.square(table.largest) - 2 * raised, 0.0))
    found = np.where(_told_by_spectrum(table), table.largest, below)
    found = np.where(np.isnan(table.exact), found, table.exact)
    return np.minimum(_relative(found, _by_row(table, table.norms)), 1.0)


def exactly_known(table: LayerTable) -> NDArray[np.bool_]:
    """For which rows (n,) the definition `exact` gives the error itself, to 1e-9 of it."""
    found = _told_by_spectrum(table)
    found |= ~np.isnan(table.exact)
    return found


def _told_by_spectrum(table: LayerTable) -> NDArray[np.bool_]:
    """One slice without its first singular values has the next one as its norm."""
    told: NDArray[np.bool_] = np.square(table.largest) * _NEGLIGIBLE >= _by_row(table, table.slack)
    told &= table.choices[:, 1] == 1
    return told


def _frobenius(table: LayerTable) -> FloatArray:
    """‖W − Ŵ‖_F / ‖W‖_F, which the singular values give exactly."""
    return np.sqrt(_relative(table.tail_energy, _by_row(table, table.energies)))


def density(table: LayerTable, rank_prices: FloatArray) -> FloatArray:
    """sqrt(Σ_i σ²_{i,j+1} / (‖W‖_F² · price)): what the next unit that is spent would save.

    One more rank in every slice takes Σ_i σ²_{i,j+1} from the squared Frobenius error and has
    its price: k·rows + columns parameters, or so many MACs. Where the sum over the layers of
    their relative squared errors is least for what is spent, no layer's parameters save more
    than another's: the quotient is the same everywhere (the condition of Lagrange). Minimising
    its maximum brings that about. It is not a bound on any error.

    Args:
        table: of the layer.
        rank_prices: (n,), of one rank more in every slice, positive.
    """
    return np.sqrt(_relative(table.saved / rank_prices, _by_row(table, table.energies)))


def _density_of_parameters(table: LayerTable) -> FloatArray:
    return density(table, np.asarray(table.costs // table.choices[:, 2], dtype=np.float64))


def _by_row(table: LayerTable, values: Mapping[int, float]) -> FloatArray | float:
    """What belongs to each row's scheme, (n,); the value itself if there is only one."""
    if len(values) == 1:
        return next(iter(values.values()))
    of_scheme = np.zeros(max(values, default=0) + 1)
    for scheme, value in values.items():
        of_scheme[scheme] = value
    return of_scheme[table.choices[:, 0]]


def _relative(values: FloatArray, whole: FloatArray | float) -> FloatArray:
    """A layer that is zero altogether loses nothing."""
    if np.all(np.asarray(whole) > 0):
        return values / whole
    return np.zeros_like(values)


_NEGLIGIBLE = 1e-9
"""A share of the square of an error that makes no difference."""

ErrorDefinition = Callable[[LayerTable], FloatArray]

ERROR_DEFINITIONS: Mapping[str, ErrorDefinition] = MappingProxyType(
    {
        "density": _density_of_parameters,
        "sum": _sum_bound,
        "theorem1": _theorem1_bound,
        "published-code": _published_code,
        "exact": _exact,
        "frobenius": _frobenius,
    }
)
"""What an allocation may minimise, for every row of a layer's table."""

DEFAULT_DEFINITION = "density"

PROVEN_BOUNDS = ("sum", "theorem1")
"""The definitions that are upper bounds on ‖W − Ŵ‖₂ / ‖W‖₂."""


def error_bound(table: LayerTable, choice: Choice, definition: str, rounding: float = 0.0) -> float:
    """A proven bound on the relative error of a tabled choice: the definition's own, or `sum`.

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
