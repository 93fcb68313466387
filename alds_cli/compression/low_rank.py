"""The compression strategy that replaces layers by low-rank pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from alds_cli.allocation import (
    ERROR_DEFINITIONS,
    InfeasibleError,
    Problem,
    Refine,
    Spending,
)
from alds_cli.calibration import keep_unobserved
from alds_cli.checkpoint import store_cached
from alds_cli.compression.factorise import carry_out, require_makeable, weight_types
from alds_cli.compression.refusals import kept_in_words, nothing_to_decompose, refusal
from alds_cli.compression.targets import (
    Budget,
    Offered,
    prices_of,
    rank_prices_of,
)
from alds_cli.compression.traced_model import (
    TracedModel,
    batches_for,
    layer_reports,
    schemes_needed,
)
from alds_cli.errors import OptionError
from alds_cli.methods import Method, method_named
from alds_cli.network.networks import Network
from alds_cli.options.choices import require_known
from alds_cli.profiling import TrueErrors, error_tables, operator_norms
from alds_cli.records import (
    ArgumentValue,
    Candidate,
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
)
from alds_cli.runtime.devices import pick_device
from alds_cli.surgery import require_fitting
from alds_cli.surgery.channels import Channels


@dataclass(slots=True)
class Findings:
    """What was found out of a network, for several strategies that plan for it.

    Statistics by their names, and error tables by schemes and layers.
    """

    statistics: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    tables: dict[tuple[tuple[int, ...], frozenset[str]], ErrorTable] = field(default_factory=dict)


class LowRankStrategy:
    """The strategy that replaces layers by low-rank pairs, chosen by error tables.

    Args:
        traced: the network and what is asked of it.
        findings: statistics and tables of the same network on the same images; new ones are added.

    Raises:
        OptionError: the method lacks images that it needs.
        AldsError: tables or images cannot be read.
    """

    channels: Channels | None = None

    def __init__(self, traced: TracedModel, findings: Findings | None = None) -> None:
        options = self._options = traced.options
        self.method = options.method
        network = traced.network
        self.specs = traced.specs
        self._method = traced.entry
        self._needs = traced.needs
        self._statistics: dict[str, Mapping[str, Any]] = {}
        findings = findings or Findings()
        if self._needs:
            with traced.clock("calibrate"):
                self._observe(network, traced.method, findings.statistics)
        with traced.clock("profile"):
            schemes = schemes_needed(options, traced.given)
            named = frozenset(name for name, spec in self.specs.items() if spec.reason is None)
            tables = findings.tables.get((schemes, named)) or self._tabled(traced, schemes)
            findings.tables[schemes, named] = tables
        self.weights_hash = tables.weights_hash
        self._true_errors = TrueErrors(network.module, tables, options.progress)
        self._stored = tables
        self._types = weight_types(network.module, tables.layers)
        self._module = network.module

    def _observe(self, network: Network, method: str, known: dict[str, Mapping[str, Any]]) -> None:
        """Gather the statistics that the method needs; layers without any are kept."""
        for statistic in self._needs:
            found = known.get(statistic.name) or statistic.gathering(cache=self._options.cache)(
                network.module,
                self.specs,
                batches_for(network, self._options, method),
                device=pick_device(self._options.device),
                progress=self._options.progress,
            )
            self._statistics[statistic.name] = known[statistic.name] = found
            self.specs = keep_unobserved(self.specs, found, statistic.missing)

    def _tabled(self, traced: TracedModel, schemes: tuple[int, ...]) -> ErrorTable:
        options = traced.options
        tables, _ = error_tables(
            traced.network.module,
            self.specs,
            schemes=schemes,
            table=None if options.table is None else Path(options.table),
            cache=options.cache,
            device=pick_device(options.device),
            progress=options.progress,
        )
        return tables

    @cached_property
    def _summaries(self) -> Mapping[str, Mapping[str, Any]]:
        """The statistics in the form that planners use."""
        return {
            statistic.name: statistic.summary(self._statistics[statistic.name])
            for statistic in self._needs
        }

    @property
    def _tables(self) -> ErrorTable:
        """The error tables, including all true errors computed so far."""
        return self._true_errors.tables

    def planned(
        self, budgets: Sequence[Budget], offered: Offered | None, spending: Spending
    ) -> Plan:
        """Plan by the method, and store the true errors that it needed in the cache."""
        options = self._options
        try:
            return plan_within(
                self.specs,
                self._tables,
                budgets,
                method=options.method,
                solver=options.solver,
                bound=options.bound,
                arguments=options.method_args,
                seed=options.seed,
                rank_multiple=options.rank_multiple,
                offered=offered,
                refine=self._true_errors,
                spending=spending,
                statistics=self._summaries,
            )
        finally:
            self._keep_tables()

    def _keep_tables(self) -> None:
        if self._options.cache and self._tables is not self._stored:
            store_cached(self._tables)
            self._stored = self._tables

    def comparison(self, plan: Plan) -> Sequence[Candidate]:
        """Return nothing, since no other method was tried."""
        del plan
        return ()

    def require_fitting(self, plan: Plan) -> None:
        """Check that every choice fits its layer and that its factors can be made."""
        require_makeable(self.specs, plan, self._method)

    def outlook(self, plan: Plan) -> list[LayerReport]:
        """Report on every layer, as far as the tables tell."""
        norms = operator_norms(self._module, self._tables, plan.decomposed)
        return layer_reports(
            self.specs, self._tables, plan, self._types, norms, method=self._method
        )

    def carry_out(self, module: nn.Module, plan: Plan) -> list[LayerReport]:
        """Replace the plan's layers by pairs."""
        return carry_out(
            module,
            self.specs,
            self._tables,
            plan,
            method=self._method,
            statistics=self._statistics,
            progress=self._options.progress,
        )


def plan_within(
    specs: Mapping[str, LayerSpec],
    tables: ErrorTable,
    budgets: Sequence[Budget],
    *,
    method: str = "alds",
    solver: str | None = None,
    bound: str | None = None,
    arguments: Mapping[str, ArgumentValue] | None = None,
    seed: int = 0,
    rank_multiple: int = 1,
    offered: Offered | None = None,
    refine: Refine | None = None,
    spending: Spending | None = None,
    statistics: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Choose a pair, or the layer itself, for every layer so that all budgets hold.

    Args:
        specs: the network's layers, by name.
        tables: error tables of those that may be decomposed.
        budgets: at least one.
        method: a key of `methods.METHODS`.
        solver: one of the method's solvers. None takes its first, but `knapsack` for `exact`
            where MACs or time are budgeted: minimising the maximum keeps less accuracy there.
        bound: the error definition, a key of `allocation.ERROR_DEFINITIONS`; None takes the
            solver's default.
        arguments: the method's arguments, where they differ from the defaults.
        seed: the seed of a solver or method that draws random numbers.
        rank_multiple: the number that every rank j must be a multiple of.
        offered: tells which choices may be made; None allows all.
        refine: computes true errors, where those are minimised.
        spending: computes the cost of choices in any resource, budgeted or not.
        statistics: the statistics of the layers' behaviour on images that the method needs, as
            in `Problem.statistics`.

    Returns:
        The plan, with a choice or None for every layer.

    Raises:
        OptionError: a name is unknown, or the method cannot do what is asked.
        PlanError: a user-defined method returned a plan that does not fit the network.
        RatioUnreachableError: even the smallest network removes less than the ratio.
        BudgetError: no plan keeps within an absolute limit, or within all budgets together.
    """
    chosen = method_named(method)
    resources = [budget.resource.name for budget in budgets]
    solver, bound = settled_names(method, solver, bound, resources)
    settled = chosen.settled_arguments(method, arguments or {})
    require_able(method, resources)
    if rank_multiple < 1:
        raise OptionError(f"a rank cannot be a multiple of {rank_multiple}")
    if all(spec.reason is not None for spec in specs.values()) and any(
        budget.for_options < 0 for budget in budgets
    ):
        raise nothing_to_decompose(specs, budgets)
    problem = Problem(
        [replace(tables.layers[n], spec=s) for n, s in specs.items() if s.reason is None],
        [budget.for_options for budget in budgets],
        prices_of(budgets, offered),
        rank_prices_of(budgets),
        rank_multiple,
        refine,
        solver,
        bound,
        seed,
        settled,
        spending,
        statistics or {},
    )
    if chosen.plan is None:
        raise ValueError(f"{method} makes no pairs")
    try:
        plan = chosen.plan(problem)
    except InfeasibleError as error:
        layers = error.layers or problem.options("frobenius", chosen.schemes)
        faster_only = offered is not None
        raise refusal(budgets, layers, kept_in_words(specs), faster_only=faster_only) from error
    require_fitting(specs, plan.choices)
    return replace(
        plan,
        choices={name: plan.choices.get(name) for name in specs},
        arguments=unusual(chosen, settled),
    )


def unusual(method: Method, arguments: Mapping[str, ArgumentValue]) -> dict[str, ArgumentValue]:
    """Return the arguments that differ from the method's defaults."""
    return {key: value for key, value in arguments.items() if value != method.arguments[key]}


def require_able(method: str, resources: Collection[str]) -> None:
    """Check that a method can plan for all resources that are budgeted.

    Whoever plans for time can plan for an efficiency, whose prices are made of times.

    Raises:
        OptionError: it cannot.
    """
    targets = method_named(method).targets
    for resource in ("latency" if name == "efficiency" else name for name in resources):
        if resource not in targets:
            raise OptionError(
                f"the method {method} plans for {', '.join(targets)}, not for {resource}",
                tip="--method alds plans for all of them",
            )


def settled_names(
    method: str, solver: str | None, bound: str | None, resources: Collection[str]
) -> tuple[str | None, str | None]:
    """Return the solver and the error definition, with defaults for those that are None.

    A method with only one way to plan has neither, and gives (None, None).

    Args:
        method: a key of `methods.METHODS`.
        solver: one of the method's solvers, or None.
        bound: a key of `allocation.ERROR_DEFINITIONS`, or None.
        resources: the names of the budgeted resources.

    Raises:
        OptionError: a name is unknown, or the method has no solvers.
    """
    solvers = method_named(method).solvers
    if not solvers:
        for option, value in (("solver", solver), ("bound", bound)):
            if value is not None:
                raise OptionError(
                    f"the method {method} takes no {option}", tip=f"leave out --{option}"
                )
        return None, None
    usual = next(iter(solvers))
    if usual == "exact" and not set(resources) <= {"params", "bytes"}:
        usual = "knapsack"
    solver = solver or usual
    require_known("solver", solver, solvers)
    bound = bound or solvers[solver]
    require_known("bound", bound, ERROR_DEFINITIONS)
    return solver, bound
