"""What may become of each layer, as plain arrays: the ground all optimisers stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from alds_cli.numerics.costs import pair_params
from alds_cli.records import Choice, FloatArray, IntArray, LayerSpec, LayerTable


def _sum_bound(table: LayerTable, scheme: int, k: int) -> FloatArray:
    """sqrt(Σ_i σ²_{i,j+1}): the norm of a row of blocks is at most that of their norms."""
    return _relative(np.sqrt(table.curves[scheme, k].sum_squares), table.norms[scheme])


def _theorem1_bound(table: LayerTable, scheme: int, k: int) -> FloatArray:
    """√k · max_i σ_{i,j+1}: Theorem 1 of Liebenwein et al., NeurIPS 2021."""
    return _relative(np.sqrt(k) * table.curves[scheme, k].largest, table.norms[scheme])


def _published_code(table: LayerTable, scheme: int, k: int) -> FloatArray:
    """max_i σ_{i,j+1}, as the paper's published code has it: not a bound for k > 1."""
    return _relative(table.curves[scheme, k].largest, table.norms[scheme])


def _density(table: LayerTable, scheme: int, k: int) -> FloatArray:
    """sqrt(Σ_i σ²_{i,j+1} / (‖W‖_F² · (k·rows + columns))): what the next parameter would save.

    One more rank in every slice costs k·rows + columns parameters and takes Σ_i σ²_{i,j+1}
    from the squared Frobenius error. Where the sum over the layers of their relative
    squared errors is least for a given size, no layer's parameters save more than
    another's: the quotient is the same everywhere (the condition of Lagrange). Minimising
    its maximum brings that about. It is not a bound on any error.
    """
    curve = table.curves[scheme, k]
    unit = pair_params(table.spec.weight_shape, scheme, k, 1)
    energy = float(curve.tail_energy[0])
    return np.sqrt(_relative(curve.sum_squares / unit, energy))


def _relative(values: FloatArray, whole: float) -> FloatArray:
    """A layer that is zero altogether loses nothing."""
    return values / whole if whole > 0 else np.zeros_like(values)


ErrorDefinition = Callable[[LayerTable, int, int], FloatArray]

ERROR_DEFINITIONS: Mapping[str, ErrorDefinition] = MappingProxyType(
    {
        "density": _density,
        "sum": _sum_bound,
        "theorem1": _theorem1_bound,
        "published-code": _published_code,
    }
)
"""What an allocation may minimise the maximum of, for ranks j = 0 … J of (scheme, k)."""

DEFAULT_DEFINITION = "density"

PROVEN_BOUNDS = ("sum", "theorem1")
"""The definitions that are upper bounds on ‖W − Ŵ‖₂ / ‖W‖₂."""


def error_bounds(table: LayerTable, scheme: int, k: int, definition: str) -> FloatArray:
    """A proven bound on the relative error for j = 0 … J: the definition's own, or `sum`.

    Never above 1: Ŵ is W times a projection, so what is left has no larger norm than W.
    """
    proven = definition if definition in PROVEN_BOUNDS else "sum"
    return np.minimum(ERROR_DEFINITIONS[proven](table, scheme, k), 1.0)


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """Every option of one layer; the one that keeps it, with error 0, is always among them.

    `costs` (n,) counts parameters, `errors` (n,) is what is minimised, `choices` (n, 3) holds
    (scheme, k, j), or zeros for keeping the layer.
    """

    name: str
    costs: IntArray
    errors: FloatArray
    choices: IntArray

    def choice(self, index: int) -> Choice | None:
        """The choice behind an option; None for keeping the layer."""
        scheme, k, j = (int(value) for value in self.choices[index])
        return Choice(scheme, k, j) if k else None

    def subset(self, mask: NDArray[np.bool_]) -> LayerOptions:
        """The options for which the mask holds."""
        return LayerOptions(self.name, self.costs[mask], self.errors[mask], self.choices[mask])


def layer_options(
    table: LayerTable, *, bound: str = DEFAULT_DEFINITION, schemes: Sequence[int] = (0,)
) -> LayerOptions:
    """All options of a layer that shrink it, and the one that keeps it (error 0).

    Args:
        table: the layer's error table.
        bound: the error definition, a key of `ERROR_DEFINITIONS`.
        schemes: folding schemes to offer; those the table lacks are passed over.
    """
    size = table.spec.weight_params
    costs, errors, choices = [np.array([size])], [np.zeros(1)], [np.zeros((1, 3), np.int64)]
    for (scheme, k), curve in sorted(table.curves.items()):
        if scheme not in schemes or k > (table.spec.max_slices or k):
            continue
        unit = pair_params(table.spec.weight_shape, scheme, k, 1)
        ranks = np.arange(1, min(len(curve.largest), -(-size // unit)))
        if not len(ranks):
            continue
        costs.append(unit * ranks)
        errors.append(ERROR_DEFINITIONS[bound](table, scheme, k)[ranks])
        choices.append(np.stack([np.full_like(ranks, scheme), np.full_like(ranks, k), ranks], 1))
    return LayerOptions(
        table.spec.name, np.concatenate(costs), np.concatenate(errors), np.concatenate(choices)
    )


def smallest_cost(spec: LayerSpec, schemes: Iterable[int]) -> int:
    """The least of all options' costs: a pair of rank 1 in one slice, or the layer itself.

    More slices or ranks only cost more.
    """
    pairs = (pair_params(spec.weight_shape, scheme, 1, 1) for scheme in schemes)
    return min([spec.weight_params, *pairs])


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
    order = np.lexsort((j, k, scheme, options.errors, options.costs))
    errors = options.errors[order]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(errors)[:-1]])
    kept = order[errors < best_before]
    return Frontier(options.costs[kept], options.errors[kept], kept)
