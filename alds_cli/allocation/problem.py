"""The problem that a method solves: options of layers within budgets, by a measure of error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation.layer_options import LayerOptions
from alds_cli.numerics.costs import full_rank, pair_params
from alds_cli.records import (
    ArgumentValue,
    Choice,
    FloatArray,
    IntArray,
    LayerSpec,
    LayerTable,
)


def _sum_bound(table: LayerTable) -> FloatArray:
    """Return sqrt(Σ_i σ²_{i,j+1}): blocks side by side have at most the norm of their norms."""
    return _relative(np.sqrt(table.sum_squares), _by_row(table, table.norms))


def _theorem1_bound(table: LayerTable) -> FloatArray:
    """Return √k · max_i σ_{i,j+1}: Theorem 1 of Liebenwein et al., NeurIPS 2021."""
    k = table.choices[:, 1]
    return _relative(np.sqrt(k) * table.largest, _by_row(table, table.norms))


def _published_code(table: LayerTable) -> FloatArray:
    """Return max_i σ_{i,j+1}, as in the paper's published code; not a bound for k > 1."""
    return _relative(table.largest, _by_row(table, table.norms))


def _exact(table: LayerTable) -> FloatArray:
    """Return ‖W − Ŵ‖₂ where it is known, else a lower bound.

    A slice is a part of the matrix, so the norm is at least max_i σ_{i,j+1}, less the amount by
    which that was raised to be an upper bound (`numerics.spectra`). No error is above 1.
    """
    raised = _by_row(table, table.slack)
    below = np.sqrt(np.maximum(np.square(table.largest) - 2 * raised, 0.0))
    found = np.where(_told_by_spectrum(table), table.largest, below)
    found = np.where(np.isnan(table.exact), found, table.exact)
    return np.minimum(_relative(found, _by_row(table, table.norms)), 1.0)


def exactly_known(table: LayerTable) -> NDArray[np.bool_]:
    """Return for which rows (n,) the definition `exact` gives the error itself, to 1e-9 of it."""
    found = _told_by_spectrum(table)
    found |= ~np.isnan(table.exact)
    return found


def _told_by_spectrum(table: LayerTable) -> NDArray[np.bool_]:
    """Return the rows with one slice, whose norm is the first singular value left out."""
    told: NDArray[np.bool_] = np.square(table.largest) * _NEGLIGIBLE >= _by_row(table, table.slack)
    told &= table.choices[:, 1] == 1
    return told


def _frobenius(table: LayerTable) -> FloatArray:
    """Return ‖W − Ŵ‖_F / ‖W‖_F, which the singular values give exactly."""
    return np.sqrt(_relative(table.tail_energy, _by_row(table, table.energies)))


def density(table: LayerTable, rank_prices: FloatArray) -> FloatArray:
    """Return sqrt(Σ_i σ²_{i,j+1} / (‖W‖_F² · price)): the saving of the next unit that is spent.

    One more rank in every slice takes Σ_i σ²_{i,j+1} from the squared Frobenius error and has
    its price: k·rows + columns parameters, or a number of MACs. Where the sum over the layers of
    their relative squared errors is least for what is spent, no layer's parameters save more
    than another's: the quotient is the same everywhere (the condition of Lagrange). Minimising
    its maximum brings that about. It is not a bound on any error.

    Args:
        table: the layer's option table, with n rows.
        rank_prices: the positive price of one more rank in every slice, (n,).
    """
    return np.sqrt(_relative(table.saved / rank_prices, _by_row(table, table.energies)))


def _density_of_parameters(table: LayerTable) -> FloatArray:
    return density(table, np.asarray(table.costs // table.choices[:, 2], dtype=np.float64))


def _by_row(table: LayerTable, values: Mapping[int, float]) -> FloatArray | float:
    """Return the value of each row's scheme, (n,); the value itself if there is only one."""
    if len(values) == 1:
        return next(iter(values.values()))
    of_scheme = np.zeros(max(values, default=0) + 1)
    for scheme, value in values.items():
        of_scheme[scheme] = value
    return of_scheme[table.choices[:, 0]]


def _relative(values: FloatArray, whole: FloatArray | float) -> FloatArray:
    """Return values / whole; a layer that is zero everywhere loses nothing."""
    if np.all(np.asarray(whole) > 0):
        return values / whole
    return np.zeros_like(values)


_NEGLIGIBLE = 1e-9
"""The share of a squared error that is negligible."""

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
"""The errors that an allocation may minimise, computed for every row of a layer's table."""

DEFAULT_DEFINITION = "density"

Prices = Callable[[LayerSpec, IntArray], IntArray]
"""`prices(spec, choices)`: the costs (n, D) of choices (n, 3) in each of D resources.

A row of zeros keeps the layer. A negative cost means that the option is not offered.
"""

RankPrices = Callable[[LayerSpec, IntArray], FloatArray]
"""`rank_prices(spec, choices)`: the cost (n,), in whatever is budgeted, of one more rank in every
slice of pairs (n, 3)."""


def layer_options(
    table: LayerTable,
    *,
    bound: str = DEFAULT_DEFINITION,
    schemes: Sequence[int] = (0,),
    rank_multiple: int = 1,
    prices: Prices | None = None,
    rank_prices: RankPrices | None = None,
) -> LayerOptions:
    """Return all options that shrink a layer and the one that keeps it (error 0), cheapest first.

    Args:
        table: the layer's option table.
        bound: the error definition, a key of `ERROR_DEFINITIONS`.
        schemes: folding schemes to offer; those that the table lacks are ignored.
        rank_multiple: only ranks j that are multiples of this are offered.
        prices: the costs of options; None counts parameters. In other resources an option may
            cost more than keeping the layer, and the order is still that of the parameters.
        rank_prices: the divisor of the definition `density`; None counts parameters.
    """
    if bound == "density" and rank_prices is not None:
        errors = density(table, rank_prices(table.spec, table.choices))
    else:
        errors = ERROR_DEFINITIONS[bound](table)
    costs, choices = table.costs, table.choices
    offered = _offered(table, schemes, rank_multiple)
    if offered is not None:
        errors, costs, choices = errors[offered], costs[offered], choices[offered]
    errors = np.append(errors, 0.0)
    choices = np.concatenate([choices, _KEEP])
    if prices is None:
        params = np.append(costs, table.spec.weight_params)[:, None]
        return LayerOptions(table.spec.name, params, errors, choices)
    priced = prices(table.spec, choices)
    available: NDArray[np.bool_] = np.all(priced >= 0, axis=1)
    return LayerOptions(table.spec.name, priced, errors, choices).subset(available)


_KEEP = np.zeros((1, 3), np.int64)


def _offered(
    table: LayerTable, schemes: Sequence[int], rank_multiple: int
) -> NDArray[np.bool_] | None:
    """Return which rows of the table may be chosen; None for all of them."""
    masks: list[NDArray[np.bool_]] = []
    if not set(table.norms) <= set(schemes):
        masks.append(np.isin(table.choices[:, 0], schemes))
    if table.spec.max_slices is not None:
        masks.append(table.choices[:, 1] <= table.spec.max_slices)
    if rank_multiple > 1:
        masks.append(table.choices[:, 2] % rank_multiple == 0)
    return np.logical_and.reduce(masks) if masks else None


def smallest_cost(spec: LayerSpec, schemes: Sequence[int], rank_multiple: int = 1) -> int:
    """Return the fewest parameters of any option: a pair of one slice and least rank, or the layer.

    More slices or ranks only cost more.
    """
    pairs = (
        pair_params(spec.weight_shape, scheme, 1, rank_multiple, spec.groups)
        for scheme in schemes
        if rank_multiple <= full_rank(spec.weight_shape, scheme, 1, spec.groups)
    )
    return min([spec.weight_params, *pairs])


Refine = Callable[[Sequence[tuple[str, Choice]]], Sequence[float]]
"""`refine([(layer, choice), …])`: the true relative errors ‖W − Ŵ‖₂ / ‖W‖₂ of choices."""

Spending = Callable[[str, LayerSpec, IntArray], IntArray]
"""`spending(resource, spec, choices)`: the cost (n,) of choices (n, 3) in `params` or `macs`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Everything that a method gets: tables, budgets, prices and what it was asked to do.

    Attributes:
        tables: the option tables of the layers that may be decomposed.
        budgets: for each of D resources, the most that these layers may cost together.
        prices: the costs of their options; None counts parameters.
        rank_prices: the cost of one more rank in all the resources together.
        rank_multiple: only ranks that are multiples of this are offered.
        refine: computes true errors, for methods that minimise them.
        solver: which of the method's optimisers to use; None where it has only one.
        bound: the error definition that the optimiser minimises; None where it has only one.
        seed: the seed of a method that draws random numbers.
        arguments: all of the method's own arguments.
        spending: computes the cost of choices in any resource, budgeted or not.
        statistics: the summaries for planners of the layers' behaviour on images that the method
            needs, by the names in its `Method.needs`, then by layer.
    """

    tables: Sequence[LayerTable]
    budgets: Sequence[int]
    prices: Prices | None = None
    rank_prices: RankPrices | None = None
    rank_multiple: int = 1
    refine: Refine | None = None
    solver: str | None = None
    bound: str | None = None
    seed: int = 0
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    spending: Spending | None = None
    statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def options(self, bound: str, schemes: Sequence[int] = (0,)) -> list[LayerOptions]:
        """Return the options of every layer, with their errors by that definition.

        `density` does not compare folding schemes: pairs that one of another scheme beats in cost
        and energy are left out.
        """
        layers = self._all_options(bound, schemes)
        if bound != "density" or len(schemes) == 1:
            return layers
        lost = self._all_options("frobenius", schemes)
        return [economical(options, by.errors) for options, by in zip(layers, lost, strict=True)]

    def _all_options(self, bound: str, schemes: Sequence[int]) -> list[LayerOptions]:
        return [
            layer_options(
                table,
                bound=bound,
                schemes=schemes,
                rank_multiple=self.rank_multiple,
                prices=self.prices,
                rank_prices=self.rank_prices,
            )
            for table in self.tables
        ]


def economical(options: LayerOptions, lost: FloatArray) -> LayerOptions:
    """Return the options that no pair of another scheme beats in cost and lost energy.

    The definition `density` is the saving of the next unit along one curve over the rank. It does
    not compare curves: a pair of another scheme may lose more energy at a higher cost and still
    save little by its next rank. Such a pair is never worth choosing. Where there are several
    resources, the first is compared.

    Args:
        options: the options of a layer, n in all.
        lost: their errors by the definition `frobenius`, (n,).
    """
    scheme = np.where(options.choices[:, 1] > 0, options.choices[:, 0], -1)
    costs = options.costs[:, 0]
    beaten = np.zeros(len(costs), dtype=np.bool_)
    present = np.unique(scheme[scheme >= 0])
    if len(present) < 2:
        return options
    for one in present:
        of_scheme = scheme == one
        beaten |= (
            (scheme >= 0) & ~of_scheme & _beaten_by(costs[of_scheme], lost[of_scheme], costs, lost)
        )
    return options.subset(~beaten)


def _beaten_by(
    costs: IntArray, lost: FloatArray, other_costs: IntArray, other_lost: FloatArray
) -> NDArray[np.bool_]:
    """Return which of the others cost no less and lose more than one of these, as a mask."""
    order = np.argsort(costs, kind="stable")
    least = np.minimum.accumulate(lost[order])
    within = np.searchsorted(costs[order], other_costs, side="right")
    best = np.concatenate([[np.inf], least])[within]
    beaten: NDArray[np.bool_] = other_lost > best
    return beaten
