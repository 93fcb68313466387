"""The optimisers that allocate by error, and their use by the ALDS methods.

Source: Liebenwein, Maalouf, Feldman, Rus, NeurIPS 2021, Sec. 2.2, Eq. 8, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alds_cli.allocation import (
    DEFAULT_DEFINITION,
    Allocation,
    InfeasibleError,
    LayerOptions,
    Problem,
    alternating,
    exactly_known,
    knapsack,
    minimax,
    refined,
)
from alds_cli.errors import OptionError
from alds_cli.options.choices import ROUNDINGS, require_known
from alds_cli.records import ArgumentValue, IntArray, LayerTable, Plan

if TYPE_CHECKING:  # only methods that look at images import how that is done
    from alds_cli.calibration import Statistic

Options = Callable[[str], list[LayerOptions]]
"""`options(bound)`: the options of every layer for a method, with errors by that definition."""

ROUNDING_ARGUMENT: Mapping[str, ArgumentValue] = MappingProxyType({"rounding": ROUNDINGS[0]})
"""The argument of every method with these solvers."""


class Solve(Protocol):
    """Chooses one option per layer within budgets."""

    def __call__(
        self, layers: Sequence[LayerOptions], budgets: Sequence[int], problem: Problem
    ) -> Allocation:
        """Return the allocation; raise ValueError where the budgets cannot be met."""
        ...


@dataclass(frozen=True, slots=True)
class Solver:
    """An optimiser, its default error definition, and its limits.

    `excluded` are the definitions it cannot minimise, `budgets` the most budgets it can hold.
    """

    solve: Solve
    bound: str
    excluded: tuple[str, ...] = ()
    budgets: int | None = None


def _exact(layers: Sequence[LayerOptions], budgets: Sequence[int], problem: Problem) -> Allocation:
    """Minimise the maximum of the errors."""
    del problem
    return minimax(layers, budgets)


def _least_sum(
    layers: Sequence[LayerOptions], budgets: Sequence[int], problem: Problem
) -> Allocation:
    """Minimise the sum of squared errors."""
    del problem
    return knapsack(_squared(layers), budgets)


def _squared(layers: Sequence[LayerOptions]) -> list[LayerOptions]:
    return [replace(options, errors=np.square(options.errors)) for options in layers]


def _alternating(
    layers: Sequence[LayerOptions], budgets: Sequence[int], problem: Problem
) -> Allocation:
    """Run the paper's Algorithm 1."""
    randomised = problem.arguments.get("rounding") == "randomised"
    return alternating(layers, budgets, seed=problem.seed, randomised=randomised)


def _one_price(
    layers: Sequence[LayerOptions], budgets: Sequence[int], problem: Problem
) -> Allocation:
    """Minimise the sum of squared errors plus one price times the cost."""
    from alds_cli.allocation.lower_hull import lagrangian  # noqa: PLC0415 - only balf needs it

    del problem
    return lagrangian(_squared(layers), budgets[0])


SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "exact": Solver(_exact, DEFAULT_DEFINITION),
        "knapsack": Solver(_least_sum, "frobenius", excluded=("density",)),
        "alternating": Solver(_alternating, DEFAULT_DEFINITION, excluded=("exact",), budgets=1),
        "lagrangian": Solver(_one_price, "frobenius", excluded=("density", "exact"), budgets=1),
    }
)
"""`exact`: the least maximum; `knapsack`: the least sum of squares, up to a certified gap;
`alternating`: the paper's Algorithm 1; `lagrangian`: the least sum of squares plus a price."""


def default_bounds(*names: str) -> dict[str, str]:
    """Return solvers with their default error definitions; without names, those of ALDS."""
    return {name: SOLVERS[name].bound for name in names or ("exact", "knapsack", "alternating")}


def allocated(problem: Problem, options: Options, method: str) -> Plan:
    """Return the allocation with the least error within the budgets (paper, Eq. 8), as a plan.

    Args:
        problem: the budgets, and the solver and error definition to use.
        options: the options of every layer.
        method: the method's name.

    Raises:
        OptionError: the solver cannot minimise that definition, or cannot hold so many budgets.
        ValueError: the budgets are below the cost of the cheapest options.
    """
    solver, bound = problem.solver or next(iter(SOLVERS)), problem.bound or DEFAULT_DEFINITION
    _require_able(problem, solver, bound)
    layers = options(bound)
    solve = partial(SOLVERS[solver].solve, problem=problem)
    with offering(layers):
        if bound == "exact":
            allocation, layers = _refined(solve, problem, layers, options("sum"))
        else:
            allocation = solve(layers, problem.budgets)
    return replace(
        plan_of(layers, allocation, problem, method),
        solver=solver,
        bound=bound,
        objective=allocation.objective,
        objective_bound=allocation.lower_bound,
    )


@contextmanager
def offering(layers: Sequence[LayerOptions]) -> Iterator[None]:
    """Add the options to an `InfeasibleError`, since they show how small a network can be."""
    try:
        yield
    except InfeasibleError as error:
        error.layers = layers
        raise


def plan_of(
    layers: Sequence[LayerOptions], allocation: Allocation, problem: Problem, method: str
) -> Plan:
    """Return the choices of an allocation as a plan of that method."""
    picked = zip(layers, allocation.chosen, strict=True)
    return Plan(
        {options.name: options.choice(index) for options, index in picked},
        method=method,
        seed=problem.seed,
    )


def _refined(
    solve: Callable[[Sequence[LayerOptions], Sequence[int]], Allocation],
    problem: Problem,
    layers: list[LayerOptions],
    bounded: Sequence[LayerOptions],
) -> tuple[Allocation, list[LayerOptions]]:
    """Minimise true errors, which are computed as the solver needs them.

    `bounded` are the same options with proven upper bounds as errors.
    """
    refine = problem.refine
    if refine is None:
        raise OptionError(
            "true errors need the weights, and this problem comes without", tip="--bound sum"
        )

    def errors_of(requests: Sequence[tuple[int, int]]) -> Sequence[float]:
        options = [(layers[at].name, layers[at].choice(index)) for at, index in requests]
        return refine([(name, choice) for name, choice in options if choice is not None])

    known = [_known(options, table) for options, table in zip(layers, problem.tables, strict=True)]
    # The true errors lie between the bounds; their geometric mean is usually close.
    above = [np.minimum(options.errors, 1.0) for options in bounded]
    guesses = [np.sqrt(options.errors * high) for options, high in zip(layers, above, strict=True)]
    return refined(solve, layers, known, problem.budgets, errors_of, guesses)


def _known(options: LayerOptions, table: LayerTable) -> NDArray[np.bool_]:
    """Return which options' true errors are known already; that of keeping the layer is 0."""
    width = int(options.choices.max()) + 1

    def numbered(choices: IntArray) -> IntArray:
        return np.asarray((choices[:, 0] * width + choices[:, 1]) * width + choices[:, 2])

    tabled = numbered(table.choices[exactly_known(table)])
    found: NDArray[np.bool_] = np.isin(numbered(options.choices), tabled)
    found[options.choices[:, 1] == 0] = True
    return found


def _require_able(problem: Problem, solver: str, bound: str) -> None:
    chosen, budgets = SOLVERS[solver], len(problem.budgets)
    if bound in chosen.excluded:
        able = next(name for name, other in SOLVERS.items() if bound not in other.excluded)
        raise OptionError(
            f"the solver {solver} cannot minimise {bound}",
            tip=f"--solver {able}, or --bound {chosen.bound}",
        )
    if chosen.budgets is not None and budgets > chosen.budgets:
        raise OptionError(
            f"the solver {solver} spends one budget, not {budgets}", tip="--solver knapsack"
        )
    rounding = problem.arguments.get("rounding", ROUNDINGS[0])
    require_known("rounding", str(rounding), ROUNDINGS)
    if rounding != ROUNDINGS[0] and solver != "alternating":
        raise OptionError(
            f"the solver {solver} has whole ranks and rounds nothing", tip="--solver alternating"
        )


def observed(
    problem: Problem, statistic: Statistic[Any], method: str, purpose: str
) -> Mapping[str, Any]:
    """Return what planners see of a statistic, by layer.

    Args:
        problem: the problem.
        statistic: one of the method's needs.
        method: the method's name, for the message.
        purpose: what the method does with images, for the message.

    Raises:
        OptionError: the network was not observed.
    """
    known = problem.statistics.get(statistic.name)
    if known is None:
        raise OptionError(
            f"the method {method} needs images, because it {purpose}",
            tip="--data tensors:FILE, or imagefolder:DIR",
        )
    return known
