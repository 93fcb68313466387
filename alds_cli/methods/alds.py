"""ALDS: channel slicing, and one allocation over (k, j) of all layers.

Source: Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, Sec. 2.2, Eq. 8, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation import (
    DEFAULT_DEFINITION,
    Allocation,
    LayerOptions,
    Problem,
    alternating,
    exactly_known,
    knapsack,
    minimax,
    refined,
)
from alds_cli.errors import OptionError
from alds_cli.records import IntArray, LayerTable, Plan

SCHEMES = (0,)


class Solve(Protocol):
    """Chooses one option per layer within budgets."""

    def __call__(
        self, layers: Sequence[LayerOptions], budgets: Sequence[int], *, seed: int
    ) -> Allocation:
        """Raises ValueError where the budgets cannot be met."""
        ...


@dataclass(frozen=True, slots=True)
class Solver:
    """An optimiser, the error definition it takes by itself, and what it cannot do."""

    solve: Solve
    bound: str
    excluded: tuple[str, ...] = ()
    budgets: int | None = None


def _exact(layers: Sequence[LayerOptions], budgets: Sequence[int], *, seed: int) -> Allocation:
    """The exact solver draws no random numbers; it takes the seed to fit the protocol."""
    del seed
    return minimax(layers, budgets)


def _least_sum(layers: Sequence[LayerOptions], budgets: Sequence[int], *, seed: int) -> Allocation:
    """The least sum of squared errors."""
    del seed
    return knapsack([replace(own, errors=np.square(own.errors)) for own in layers], budgets)


SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "exact": Solver(_exact, DEFAULT_DEFINITION),
        "knapsack": Solver(_least_sum, "frobenius", excluded=("density",)),
        "alternating": Solver(alternating, DEFAULT_DEFINITION, excluded=("exact",), budgets=1),
    }
)
"""`exact`: the least maximum; `knapsack`: the least sum of squares, up to a certified gap;
`alternating`: the paper's Algorithm 1."""


def plan(problem: Problem, *, solver: str, bound: str, seed: int) -> Plan:
    """The allocation with the least error within the budgets (paper, Eq. 8).

    Args:
        problem: tables, budgets and prices.
        solver: a key of `SOLVERS`.
        bound: the error definition, a key of `allocation.ERROR_DEFINITIONS`.
        seed: for solvers that draw random numbers.

    Raises:
        OptionError: the solver cannot minimise that, or not within so many budgets.
        ValueError: the budgets are below what the cheapest options need.
    """
    chosen = SOLVERS[solver]
    _require_able(solver, bound, len(problem.budgets))
    layers = problem.options(bound, SCHEMES)
    solve = partial(chosen.solve, seed=seed)
    if bound == "exact":
        allocation, layers = _refined(solve, problem, layers)
    else:
        allocation = solve(layers, problem.budgets)
    picked = zip(layers, allocation.chosen, strict=True)
    return Plan(
        {options.name: options.choice(index) for options, index in picked},
        method="alds",
        solver=solver,
        bound=bound,
        seed=seed,
        objective=allocation.objective,
        objective_bound=allocation.lower_bound,
    )


def _refined(
    solve: Callable[[Sequence[LayerOptions], Sequence[int]], Allocation],
    problem: Problem,
    layers: list[LayerOptions],
) -> tuple[Allocation, list[LayerOptions]]:
    """Minimise errors that are computed as the solver asks for them."""
    refine = problem.refine
    if refine is None:
        raise OptionError("true errors need the weights, which nobody gave", tip="--bound sum")

    def errors_of(requests: Sequence[tuple[int, int]]) -> Sequence[float]:
        options = [(layers[at].name, layers[at].choice(index)) for at, index in requests]
        return refine([(name, choice) for name, choice in options if choice is not None])

    known = [_known(own, table) for own, table in zip(layers, problem.tables, strict=True)]
    # The truth lies between the bounds; their geometric mean is close as a rule.
    above = [np.minimum(own.errors, 1.0) for own in problem.options("sum", SCHEMES)]
    guesses = [np.sqrt(own.errors * high) for own, high in zip(layers, above, strict=True)]
    return refined(solve, layers, known, problem.budgets, errors_of, guesses)


def _known(own: LayerOptions, table: LayerTable) -> NDArray[np.bool_]:
    """Which options' true errors are known already; that of keeping the layer is 0."""
    width = int(own.choices.max()) + 1

    def numbered(choices: IntArray) -> IntArray:
        return np.asarray((choices[:, 0] * width + choices[:, 1]) * width + choices[:, 2])

    tabled = numbered(table.choices[exactly_known(table)])
    found: NDArray[np.bool_] = np.isin(numbered(own.choices), tabled)
    found[own.choices[:, 1] == 0] = True
    return found


def _require_able(solver: str, bound: str, budgets: int) -> None:
    chosen = SOLVERS[solver]
    if bound in chosen.excluded:
        able = next(name for name, other in SOLVERS.items() if bound not in other.excluded)
        raise OptionError(
            f"the solver {solver} cannot minimise {bound}",
            tip=f"--solver {able}, or --bound {chosen.bound}",
        )
    if chosen.budgets is not None and budgets > chosen.budgets:
        raise OptionError(
            f"the solver {solver} spends one budget, not {budgets}", tip="--solver exact"
        )
