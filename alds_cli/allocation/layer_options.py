"""What may become of each layer, as plain arrays: the ground all optimisers stand on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation.error_measures import DEFAULT_DEFINITION, ERROR_DEFINITIONS, density
from alds_cli.numerics.costs import full_rank, pair_params
from alds_cli.records import (
    Choice,
    FloatArray,
    IntArray,
    LayerSpec,
    LayerTable,
)

Prices = Callable[[LayerSpec, IntArray], IntArray]
"""`prices(spec, choices)`: what choices (n, 3) cost of each of D resources, (n, D).

A row of zeros keeps the layer. A negative cost means that the option is not on offer.
"""

RankPrices = Callable[[LayerSpec, IntArray], FloatArray]
"""`rank_prices(spec, choices)`: what one rank more in every slice costs, (n,), of whatever is
budgeted; pairs only."""


class InfeasibleError(ValueError):
    """No choice of options keeps within the budgets; `layers` is what was on offer, if known."""

    layers: Sequence[LayerOptions] | None = None


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """Every option of one layer; the one that keeps it, with error 0, is always among them.

    `costs` (n, D) is what each takes of D resources, parameters alone as a rule, `errors`
    (n,) is what is minimised, `choices` (n, 3) holds (scheme, k, j), or zeros for keeping
    the layer.
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
    table: LayerTable,
    *,
    bound: str = DEFAULT_DEFINITION,
    schemes: Sequence[int] = (0,),
    rank_multiple: int = 1,
    prices: Prices | None = None,
    rank_prices: RankPrices | None = None,
) -> LayerOptions:
    """All options of a layer that shrink it, and the one that keeps it (error 0), cheapest first.

    Args:
        table: the layer's option table.
        bound: the error definition, a key of `ERROR_DEFINITIONS`.
        schemes: folding schemes to offer; those the table lacks are passed over.
        rank_multiple: only ranks j that are a multiple of this are offered.
        prices: what options cost; None counts parameters. With other resources an option
            may cost more than keeping the layer, and the order is that of the parameters.
        rank_prices: what the definition `density` divides by; None counts parameters.
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
        own = np.append(costs, table.spec.weight_params)[:, None]
        return LayerOptions(table.spec.name, own, errors, choices)
    priced = prices(table.spec, choices)
    available: NDArray[np.bool_] = np.all(priced >= 0, axis=1)
    return LayerOptions(table.spec.name, priced, errors, choices).subset(available)


_KEEP = np.zeros((1, 3), np.int64)


def _offered(
    table: LayerTable, schemes: Sequence[int], rank_multiple: int
) -> NDArray[np.bool_] | None:
    """Which rows of the table may be chosen; None for all of them."""
    masks: list[NDArray[np.bool_]] = []
    if not set(table.norms) <= set(schemes):
        masks.append(np.isin(table.choices[:, 0], schemes))
    if table.spec.max_slices is not None:
        masks.append(table.choices[:, 1] <= table.spec.max_slices)
    if rank_multiple > 1:
        masks.append(table.choices[:, 2] % rank_multiple == 0)
    return np.logical_and.reduce(masks) if masks else None


def smallest_cost(spec: LayerSpec, schemes: Sequence[int], rank_multiple: int = 1) -> int:
    """The least parameters an option leaves: a pair of one slice and least rank, or the layer.

    More slices or ranks only cost more.
    """
    pairs = (
        pair_params(spec.weight_shape, scheme, 1, rank_multiple, spec.groups)
        for scheme in schemes
        if rank_multiple <= full_rank(spec.weight_shape, scheme, 1, spec.groups)
    )
    return min([spec.weight_params, *pairs])


@dataclass(frozen=True, slots=True)
class Allocation:
    """One option for every layer, and how good that provably is.

    `chosen` holds the index of each layer's option; `objective` is what was minimised, the
    largest error or the sum of the errors; no allocation within the budgets lies below
    `lower_bound`, which equals the objective where that is proven to be the optimum.
    """

    chosen: list[int]
    objective: float
    lower_bound: float

    @property
    def gap(self) -> float:
        """How far above the optimum the objective is at most."""
        return self.objective - self.lower_bound
