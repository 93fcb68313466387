"""What a method is asked to solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation.layer_options import (
    LayerOptions,
    Prices,
    RankPrices,
    layer_options,
)
from alds_cli.records import (
    ArgumentValue,
    Choice,
    FloatArray,
    IntArray,
    LayerSpec,
    LayerTable,
)

Refine = Callable[[Sequence[tuple[str, Choice]]], Sequence[float]]
"""`refine([(layer, choice), …])`: the true relative errors ‖W − Ŵ‖₂ / ‖W‖₂ of choices."""

Spending = Callable[[str, LayerSpec, IntArray], IntArray]
"""`spending(resource, spec, choices)`: what choices (n, 3) take of `params` or `macs`, (n,)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """All that a method sees: tables, budgets, prices and what it was asked to do.

    Attributes:
        tables: of the layers that may be decomposed.
        budgets: how much of each of D resources these layers may take together.
        prices: what their options take; None counts parameters.
        rank_prices: what a rank more takes of all the resources together.
        rank_multiple: only ranks that are multiples of this are on offer.
        refine: gives true errors to whoever minimises them.
        solver: which of the method's optimisers to use; None where it has but one.
        bound: the error definition that the optimiser minimises, likewise.
        seed: for what draws random numbers.
        arguments: the method's own options, all of them.
        spending: what choices take of a resource, budgeted or not.
        response_energies: by layer, the eigenvalues of the covariance of its responses, the
            largest first; None where no images were given.
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
    response_energies: Mapping[str, FloatArray] | None = None

    def options(self, bound: str, schemes: Sequence[int] = (0,)) -> list[LayerOptions]:
        """The options of every layer, with their errors by that definition.

        `density` compares no folding schemes: what a pair of another scheme beats in price and
        energy is left out of what it is said of.
        """
        layers = self._all_options(bound, schemes)
        if bound != "density" or len(schemes) == 1:
            return layers
        lost = self._all_options("frobenius", schemes)
        return [economical(own, by.errors) for own, by in zip(layers, lost, strict=True)]

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


def economical(own: LayerOptions, lost: FloatArray) -> LayerOptions:
    """The options but those that a pair of another scheme beats in price and energy lost.

    What prices of several resources say is compared by the first.

    Args:
        own: the options of a layer.
        lost: (n,), what of its energy each loses.
    """
    scheme = np.where(own.choices[:, 1] > 0, own.choices[:, 0], -1)
    costs = own.costs[:, 0]
    beaten = np.zeros(len(costs), dtype=np.bool_)
    present = np.unique(scheme[scheme >= 0])
    if len(present) < 2:
        return own
    for one in present:
        mine = scheme == one
        beaten |= (scheme >= 0) & ~mine & _beaten_by(costs[mine], lost[mine], costs, lost)
    return own.subset(~beaten)


def _beaten_by(
    costs: IntArray, lost: FloatArray, other_costs: IntArray, other_lost: FloatArray
) -> NDArray[np.bool_]:
    """Which of the others cost no less and lose more than one of these."""
    order = np.argsort(costs, kind="stable")
    least = np.minimum.accumulate(lost[order])
    within = np.searchsorted(costs[order], other_costs, side="right")
    best = np.concatenate([[np.inf], least])[within]
    beaten: NDArray[np.bool_] = other_lost > best
    return beaten
