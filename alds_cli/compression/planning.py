"""Choosing for every layer, within budgets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from alds_cli.allocation import ERROR_DEFINITIONS, InfeasibleError, Problem, Refine
from alds_cli.compression.budgets import Budget, Offered, prices_of, rank_prices_of, refusal
from alds_cli.errors import OptionError
from alds_cli.methods import method_named
from alds_cli.records import ErrorTable, LayerSpec, Plan


def plan_within(
    specs: Mapping[str, LayerSpec],
    tables: ErrorTable,
    budgets: Sequence[Budget],
    *,
    method: str = "alds",
    solver: str | None = None,
    bound: str | None = None,
    seed: int = 0,
    rank_multiple: int = 1,
    offered: Offered | None = None,
    refine: Refine | None = None,
) -> Plan:
    """Choose for every layer so that all budgets hold.

    Args:
        specs: the network's layers.
        tables: error tables of those that may be decomposed.
        budgets: at least one.
        method: a key of `methods.METHODS`.
        solver: one of the method's; None takes its own, and `knapsack` where MACs or time are
            budgeted: there the least maximum keeps less of the network's accuracy.
        bound: the error definition, a key of `allocation.ERROR_DEFINITIONS`; None takes the
            solver's usual one.
        seed: for what draws random numbers.
        rank_multiple: every rank j is to be a multiple of this.
        offered: which choices may be made; None allows all.
        refine: gives true errors, where those are minimised.

    Raises:
        OptionError: a name is unknown, or the solver cannot do what is asked.
        RatioUnreachableError: even the smallest network removes less.
        BudgetError: no plan keeps within an absolute limit, or within all budgets at once.
    """
    chosen = method_named(method)
    solver, bound = settled_names(
        method, solver, bound, [budget.resource.name for budget in budgets]
    )
    if rank_multiple < 1:
        raise OptionError(f"a rank cannot be a multiple of {rank_multiple}")
    problem = Problem(
        [replace(tables.layers[n], spec=s) for n, s in specs.items() if s.reason is None],
        [budget.for_options for budget in budgets],
        prices_of(budgets, offered),
        rank_prices_of(budgets),
        rank_multiple,
        refine,
    )
    try:
        plan = chosen.plan(problem, solver=solver, bound=bound, seed=seed)
    except InfeasibleError as error:
        layers = problem.options(bound, chosen.schemes)
        raise refusal(budgets, layers, faster_only=offered is not None) from error
    return replace(plan, choices={name: plan.choices.get(name) for name in specs})


def settled_names(
    method: str, solver: str | None, bound: str | None, resources: Collection[str]
) -> tuple[str, str]:
    """The solver and the error definition, the usual ones where none is named.

    Args:
        method: a key of `methods.METHODS`.
        solver: one of the method's, or None.
        bound: a key of `allocation.ERROR_DEFINITIONS`, or None.
        resources: what is budgeted.

    Raises:
        OptionError: a name is unknown.
    """
    solvers = method_named(method).solvers
    usual = next(iter(solvers))
    if not set(resources) <= {"params", "bytes"} and "knapsack" in solvers:
        usual = "knapsack"
    solver = solver or usual
    _require_known("solver", solver, solvers)
    bound = bound or solvers[solver]
    _require_known("bound", bound, ERROR_DEFINITIONS)
    return solver, bound


def _require_known(option: str, value: str, known: Mapping[str, object]) -> None:
    if value not in known:
        raise OptionError(f"unknown {option} '{value}'", tip=f"choose from {', '.join(known)}")
