"""The allocation problem (Eq. 8), its exact solution for one budget, and proven bounds on errors.

Minimise max_ℓ ε^ℓ over all choices subject to a budget (Liebenwein et al., NeurIPS 2021,
Eq. 8). At a given level the layers separate: each takes its cheapest option whose error is at
most the level, and the total cost falls as the level rises. So a search over the distinct errors
finds the global optimum. The rest of the budget goes to the next worst layers: the result is the
lexicographic minimum of the errors sorted from worst to best.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alds_cli.allocation.layer_options import (
    DEFAULT_DEFINITION,
    ERROR_DEFINITIONS,
    Allocation,
    Frontiers,
    LayerOptions,
    density,
    first_of_equals,
    frontier,
)
from alds_cli.allocation.minimax_multi import minimax_within_all, settle_ties
from alds_cli.numerics.fold import folded_shape, full_rank, pair_params
from alds_cli.numerics.spectra import UNIT_ROUNDOFF
from alds_cli.records import (
    OPERATOR,
    ArgumentValue,
    Choice,
    FloatArray,
    IntArray,
    LayerSpec,
    LayerTable,
)

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


def minimax(layers: Sequence[LayerOptions], budgets: Sequence[int]) -> Allocation:
    """Minimise the maximum of the layers' errors within the budgets.

    For one budget, the result is the lexicographic minimum of the errors sorted from worst to
    best. For several, which must all hold, see `minimax_within_all`.

    Args:
        layers: the options of every layer, with costs (n, D).
        budgets: for each of the D resources, the most that the chosen options may cost together.

    Raises:
        InfeasibleError: no allocation within the budgets exists, or none was found for several
            budgets.
    """
    if not layers:
        return Allocation([], 0.0, 0.0)
    if len(budgets) > 1:
        return minimax_within_all(layers, budgets)
    joined = Frontiers.join([frontier(options) for options in layers])
    level = joined.lowest_level(int(budgets[0]))
    positions = _spend_the_rest(joined, joined.cheapest(level), int(budgets[0]))
    chosen = [
        first_of_equals(options, int(index))
        for options, index in zip(layers, joined.indices[positions], strict=True)
    ]
    objective = float(joined.errors[positions].max())
    return Allocation(chosen, objective, objective)


def _spend_the_rest(joined: Frontiers, start: IntArray, budget: int) -> list[int]:
    """Improve the worst layer repeatedly; a layer that cannot improve is settled.

    Where several layers share the worst error and the budget improves only some of them, the
    right ones depend on all later steps, and `settle_ties` finds them.
    """
    slack = budget - int(joined.costs[start].sum())
    positions: list[int] = start.tolist()
    heap = [(-error, layer) for layer, error in enumerate(joined.errors[start].tolist())]
    heapq.heapify(heap)
    while heap and heap[0][0] < 0:
        worst = heap[0][0]
        tied = []
        while heap and heap[0][0] == worst:
            tied.append(heapq.heappop(heap)[1])
        steps = [_step_cost(joined, layer, positions[layer]) for layer in tied]
        if sum(steps) <= slack:
            slack -= int(sum(steps))
            for layer in tied:
                positions[layer] += 1
                heapq.heappush(heap, (-float(joined.errors[positions[layer]]), layer))
        elif len(tied) > 1 and min(steps) <= slack:
            return _settled(joined, positions, [*tied, *(layer for _, layer in heap)], slack)
    return positions


def _step_cost(joined: Frontiers, layer: int, at: int) -> float:
    """Return the additional cost of the next better option; infinite where there is none."""
    return float(joined.costs[at + 1] - joined.costs[at]) if at + 1 < joined.ends[layer] else np.inf


def _settled(joined: Frontiers, positions: list[int], layers: list[int], slack: int) -> list[int]:
    """Return the positions after the ties among the open layers are settled."""
    layers = sorted(layers)
    starts = [int(joined.starts[layer]) for layer in layers]
    standing = [positions[layer] - start for layer, start in zip(layers, starts, strict=True)]
    found = settle_ties([joined.of(layer) for layer in layers], standing, slack)
    for layer, start, at in zip(layers, starts, found, strict=True):
        positions[layer] = start + at
    return positions


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
