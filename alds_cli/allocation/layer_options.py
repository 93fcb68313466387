"""The options of each layer as plain arrays, on which all optimisers work, and their errors.

A frontier holds the undominated options where one resource is budgeted: costs rise, errors fall.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from alds_cli.records import (
    Choice,
    FloatArray,
    IntArray,
    LayerTable,
)


class InfeasibleError(ValueError):
    """No choice of options keeps within the budgets; `layers` holds the options, if known."""

    layers: Sequence[LayerOptions] | None = None


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """All options of one layer; the one that keeps the layer, with error 0, is always among them.

    `costs` (n, D) are the costs in D resources (usually parameters alone), `errors` (n,) are
    minimised, and `choices` (n, 3) holds (scheme, k, j), or zeros for keeping the layer.
    """

    name: str
    costs: IntArray
    errors: FloatArray
    choices: IntArray

    def choice(self, index: int) -> Choice | None:
        """Return the choice of an option; None for keeping the layer."""
        scheme, k, j = (int(value) for value in self.choices[index])
        return Choice(scheme, k, j) if k else None

    def subset(self, mask: NDArray[np.bool_]) -> LayerOptions:
        """Return the options where the mask (n,) holds."""
        return LayerOptions(self.name, self.costs[mask], self.errors[mask], self.choices[mask])


@dataclass(frozen=True, slots=True)
class Allocation:
    """One option for every layer, with a bound on the optimum.

    `chosen` holds the index of each layer's option. `objective` is the minimised quantity: the
    largest error, or the sum of the errors. No allocation within the budgets has an objective
    below `lower_bound`, which equals `objective` where that is proven to be the optimum.
    """

    chosen: list[int]
    objective: float
    lower_bound: float

    @property
    def gap(self) -> float:
        """The most by which the objective can exceed the optimum."""
        return self.objective - self.lower_bound


@dataclass(frozen=True, slots=True)
class Frontier:
    """The undominated options of a layer: costs rise, errors strictly fall.

    `indices` points into the `LayerOptions` that the frontier was made from.
    """

    costs: IntArray
    errors: FloatArray
    indices: IntArray

    def cheapest(self, level: float) -> int:
        """Return the position of the cheapest option within the error `level`; one must be."""
        return int(np.searchsorted(-self.errors, -level))


def frontier(options: LayerOptions) -> Frontier:
    """Return the options that no other beats in cost or error and equals in the other.

    Of options equal in both, the first stays.
    """
    costs, errors = options.costs[:, 0], options.errors
    order = None
    if len(costs) > 1 and not bool(np.all(costs[1:] >= costs[:-1])):
        order = by_cost(costs)
        costs, errors = costs[order], errors[order]
    least = np.minimum.accumulate(errors)
    (kept,) = np.nonzero(np.concatenate([_TRUE, least[1:] < least[:-1]]))
    costs = costs[kept]
    rising = np.concatenate([costs[1:] > costs[:-1], _TRUE])  # of equal costs, the last is best
    kept, costs = kept[rising], costs[rising]
    return Frontier(costs, errors[kept], kept if order is None else order[kept])


_TRUE = np.ones(1, dtype=np.bool_)


def by_cost(costs: IntArray) -> IntArray:
    """Return the stable order of costs ≥ 0.

    Cost and position are packed into one integer, because sorting values is several times faster
    than sorting indices.
    """
    bits = len(costs).bit_length()
    if int(costs.max()) >> (62 - bits):
        return np.argsort(costs, kind="stable")
    keys = (costs << bits) | np.arange(len(costs))
    keys.sort()
    return keys & ((1 << bits) - 1)


@dataclass(frozen=True, slots=True)
class Frontiers:
    """The frontiers of all layers, concatenated.

    `starts` and `ends` (layers,) hold where each frontier begins and ends.
    """

    costs: IntArray
    errors: FloatArray
    indices: IntArray
    starts: IntArray
    ends: IntArray

    @classmethod
    def join(cls, frontiers: Sequence[Frontier]) -> Frontiers:
        """Concatenate frontiers, of which there must be at least one."""
        ends = np.array(
            list(accumulate(len(layer_frontier.costs) for layer_frontier in frontiers)),
            dtype=np.int64,
        )
        return cls(
            np.concatenate([layer_frontier.costs for layer_frontier in frontiers]),
            np.concatenate([layer_frontier.errors for layer_frontier in frontiers]),
            np.concatenate([layer_frontier.indices for layer_frontier in frontiers]),
            np.concatenate([[0], ends[:-1]]),
            ends,
        )

    def of(self, layer: int) -> Frontier:
        """Return the frontier of one layer."""
        rows = slice(int(self.starts[layer]), int(self.ends[layer]))
        return Frontier(self.costs[rows], self.errors[rows], self.indices[rows])

    def cheapest(self, level: float) -> IntArray:
        """Return the position of every layer's cheapest option with error at most `level`."""
        above: NDArray[np.int64] = np.add.reduceat(self.errors > level, self.starts, dtype=np.int64)
        return self.starts + above

    def lowest_level(self, budget: int) -> float:
        """Return the smallest error that every layer can keep within at that budget.

        A layer moves from one option to the next, dearer one once the level is below the error of
        the first. So the cost of a level is a sum over the steps above it, and the lowest level is
        found as a weighted median is: by repeatedly discarding the steps that are already decided.

        Raises:
            InfeasibleError: even the cheapest options exceed the budget.
        """
        slack = budget - int(self.costs[self.starts].sum())
        if slack < 0:
            raise InfeasibleError("even the cheapest options exceed the budget")
        steps = np.ones(len(self.costs), dtype=np.bool_)
        steps[self.ends - 1] = False
        errors, extra = self.errors[steps], np.diff(self.costs)[steps[:-1]]
        while len(errors) > _SORTED_AT_ONCE:
            sample = errors[:: len(errors) // _SAMPLES]
            pivot = np.partition(sample, len(sample) // 2)[len(sample) // 2]
            above = errors > pivot
            spent = int(extra[above].sum())
            if spent > slack:
                errors, extra = errors[above], extra[above]
            elif above.any():
                slack -= spent
                errors, extra = errors[~above], extra[~above]
            else:
                break
        order = np.argsort(-errors)
        affordable = int(np.searchsorted(np.cumsum(extra[order]), slack, side="right"))
        floor = float(self.errors[self.ends - 1].max())
        return floor if affordable == len(order) else max(floor, float(errors[order[affordable]]))


_SORTED_AT_ONCE = 2048

_SAMPLES = 256


def first_of_equals(options: LayerOptions, index: int) -> int:
    """Return the first option by (scheme, k, j) with the costs and error of the one at `index`."""
    (equal,) = np.nonzero(options.errors == options.errors[index])
    if len(equal) > 1:
        equal = equal[np.all(options.costs[equal] == options.costs[index], axis=1)]
    if len(equal) > 1:
        equal = equal[np.lexsort(options.choices[equal].T[::-1])]
    return int(equal[0])


_BLOCK = 256


def undominated(values: IntArray, costs: IntArray, slack: int = 0) -> IntArray:
    """Return the indices of the rows that no other row equals or beats in value and all costs.

    Of equal rows, the first stays.

    Args:
        values: (n,).
        costs: (n, D).
        slack: a row is dominated only if its value exceeds the other's by at least this much;
            for values that are known only to that accuracy.

    Returns:
        The kept rows, in the order of their values for D > 1 and of their costs for D = 1.
    """
    if costs.shape[1] == 1:
        order = np.lexsort((values, costs[:, 0]))
        ordered = values[order]
        kept = np.ones(len(order), dtype=np.bool_)
        kept[1:] = ordered[1:] < np.minimum.accumulate(ordered)[:-1] + slack
        return order[kept]
    order = np.lexsort((*costs.T[::-1], values))
    rows = np.column_stack([values, costs])[order]
    found, standing = [np.zeros(0, np.int64)], rows[:0]
    for start in range(0, len(rows), _BLOCK):
        block, block_order = rows[start : start + _BLOCK], order[start : start + _BLOCK]
        alive = ~_beaten(standing, block, slack).any(axis=0)
        block, block_order = block[alive], block_order[alive]
        # Within the block only earlier rows can dominate: later ones have a larger value or cost,
        # or are equal.
        alive = ~np.triu(_beaten(block, block, slack), 1).any(axis=0)
        standing = np.concatenate([standing, block[alive]])
        found.append(block_order[alive])
    return np.concatenate(found)


def _beaten(by: IntArray, rows: IntArray, slack: int) -> NDArray[np.bool_]:
    """Return a matrix whose entry (i, j) tells if row i of `by` nowhere exceeds row j of `rows`."""
    beaten = by[:, :1] + slack <= rows[:, 0]
    for column in range(1, rows.shape[1]):
        beaten &= by[:, column, None] <= rows[:, column]
    return beaten


def undominated_options(errors: FloatArray, costs: IntArray) -> IntArray:
    """Return the indices of options that no other matches in error (n,) and all costs (n, D)."""
    _, ranks = np.unique(errors, return_inverse=True)
    return undominated(ranks.astype(np.int64), costs)


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
