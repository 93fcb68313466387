"""Lower bounds by Lagrangian relaxation: budgets become prices, and the layers separate.

For prices λ ≥ 0, Σ_ℓ min_o (v_o + λ·c_o) − λ·B is a lower bound on the value of every selection
within the budgets B. For one budget, the best price is found by intersecting the lines of two
selections repeatedly, which takes a few steps; for several, by cutting planes (Kelley, 1960). The
line of a selection is v + λ·(c − B) as a function of λ. The selections met on the way also supply
the primal side: those with c ≤ B are solutions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from alds_cli.allocation.knapsack.instance import KnapsackInstance, priced
from alds_cli.records import FloatArray, IntArray

_STEPS = 100
"""The most prices that are tried; about ten are usual."""

_TOLERANCE = 1e-9
"""The inaccuracy of the linear programs, relative to the largest values."""

_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Prices (D,) and the bound that they prove.

    `bound` is a lower bound on the value of every selection within the budgets, rounding
    included; it is infinite where there is provably no such selection. `reduced` (N,) is by how
    much imposing an option raises the bound, to within `margin` for a whole selection.
    `selections` are those met on the way.
    """

    prices: FloatArray
    bound: float
    reduced: FloatArray
    margin: float
    selections: list[IntArray]


def relax(instance: KnapsackInstance, enough: float = np.inf) -> Relaxation:
    """Return the relaxation at the prices of the highest bound, or of some bound above `enough`."""
    search = _Search(instance, enough)
    if np.any(np.minimum.reduceat(instance.costs, instance.starts).sum(axis=0) > instance.budgets):
        return search.infeasible()
    if search.visit(np.zeros(len(instance.budgets))) or instance.fits(search.selections[0]):
        return search.best()
    if len(instance.budgets) == 1:
        _intersect(search)
    elif not _conflicting(search):
        _cut(search)
    return search.best()


@dataclass(slots=True)
class _Search:
    """The bounds seen so far; `values` and `excess` hold (v, c / B − 1) of every selection met."""

    instance: KnapsackInstance
    enough: float
    scale: FloatArray = field(init=False)
    prices: FloatArray = field(init=False)
    bound: float = -np.inf
    selections: list[IntArray] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    excess: list[FloatArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scale = np.maximum(self.instance.budgets, 1).astype(np.float64)
        self.prices = np.zeros(len(self.scale))

    def visit(self, prices: FloatArray) -> bool:
        """Evaluate the bound at prices per share of the budgets; return True once it is enough."""
        per_unit = prices / self.scale
        weights = self.instance.values + priced(self.instance.costs, per_unit)
        self.add(self.instance.first_of_least(weights))
        bound, margin = _bound(self.instance, weights, per_unit)
        if bound - margin > self.bound:
            self.bound, self.prices = bound - margin, per_unit
        return self.bound > self.enough

    def add(self, positions: IntArray) -> bool:
        """Add a selection and its line; return False if it is not new."""
        if any(np.array_equal(positions, known) for known in self.selections):
            return False
        self.selections.append(positions)
        self.values.append(float(self.instance.values[positions].sum()))
        self.excess.append((self.instance.cost(positions) - self.instance.budgets) / self.scale)
        return True

    def best(self) -> Relaxation:
        """Return the relaxation at the highest bound, with the reduced values of all options."""
        weights = self.instance.values + priced(self.instance.costs, self.prices)
        least = np.minimum.reduceat(weights, self.instance.starts)
        reduced = weights - np.repeat(least, self.instance.ends - self.instance.starts)
        _, margin = _bound(self.instance, weights, self.prices)
        return Relaxation(self.prices, self.bound, reduced, margin, self.selections)

    def infeasible(self) -> Relaxation:
        """Return a relaxation which says that no selection keeps within the budgets."""
        self.bound = np.inf
        return self.best()


def _bound(
    instance: KnapsackInstance, weights: FloatArray, prices: FloatArray
) -> tuple[float, float]:
    """Return the bound at prices per unit, and the most by which rounding may have changed it.

    Every term has at most D + 2 roundings and every sum at most one for each layer. All terms
    are at least 0, so the error is at most that many ε of their sum.
    """
    least = np.minimum.reduceat(weights, instance.starts).sum()
    spent = float(priced(instance.budgets[None], prices)[0])
    roundings = len(instance.starts) + len(prices) + 8
    return float(least - spent), 2 * roundings * _EPSILON * float(least + spent)


def _intersect(search: _Search) -> None:
    """Visit, for one budget, the prices at which the lines around the budget cross."""
    dear = 0  # the selection at price 0, which exceeds the budget
    search.add(search.instance.first_of_least(search.instance.costs[:, 0].astype(np.float64)))
    cheap = 1
    for _ in range(_STEPS):
        rise = search.values[cheap] - search.values[dear]
        price = rise / float(search.excess[dear][0] - search.excess[cheap][0])
        latest = len(search.values)
        if search.visit(np.array([price])) or len(search.values) == latest:
            return
        line = search.values[latest] + price * search.excess[latest][0]
        known = search.values[cheap] + price * search.excess[cheap][0]
        if line >= known - 1e-13 * abs(known):
            return
        if search.excess[latest][0] <= 0:
            cheap = latest
        else:
            dear = latest


def _conflicting(search: _Search) -> bool:
    """Return whether, of several budgets, some mix is provably exceeded by every selection.

    A mix has weights μ on the budgets that add up to 1; it is exceeded where every selection's
    mean excess is positive. Where there is none, the lines met suffice to bound the prices.
    """
    count = len(search.scale)
    weights = np.full(count, 1 / count)
    for _ in range(_STEPS):
        prices = weights / search.scale
        load = priced(search.instance.costs, prices)
        bound, margin = _bound(search.instance, load, prices)
        if bound > margin:
            search.bound, search.prices = np.inf, prices
            return True
        new = search.add(search.instance.first_of_least(load))
        if not new or np.all(search.excess[-1] <= 0):
            return False
        least, weights = _maximise(np.zeros(len(search.excess)), np.array(search.excess), 1.0)
        if least <= _TOLERANCE:
            return False
    return False


def _cut(search: _Search) -> None:
    """Visit, for several budgets, the prices at which the lowest of all lines met is highest."""
    most = float(np.maximum.reduceat(search.instance.values, search.instance.starts).sum()) or 1.0
    for _ in range(_STEPS):
        ceiling, prices = _maximise(np.array(search.values) / most, np.array(search.excess), None)
        met = len(search.values)
        if search.visit(prices * most) or len(search.values) == met:
            return
        if search.bound >= (ceiling - _TOLERANCE) * most:
            return


def _maximise(
    values: FloatArray, excess: FloatArray, total: float | None
) -> tuple[float, FloatArray]:
    """Return the highest min_s (values_s + excess_s · x) over x ≥ 0 (D,), and that x.

    Args:
        values: the lines at 0, (s,).
        excess: their slopes, (s, D).
        total: the sum of x; None leaves it free, within a wide box.
    """
    from scipy.optimize import linprog  # noqa: PLC0415 - slow to import, rarely needed

    count = excess.shape[1]
    solved = linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=np.column_stack([-excess, np.ones(len(values))]),
        b_ub=values,
        A_eq=None if total is None else np.append(np.ones(count), 0.0)[None],
        b_eq=None if total is None else [total],
        bounds=[*([(0.0, _BOX)] * count), (None, None)],
        method="highs",
    )
    return float(-solved.fun), np.maximum(solved.x[:count], 0.0)


_BOX = 1e7
"""The highest price of a whole budget, in sums of all layers' largest values."""
