"""From a network and a ratio, or a plan, to a smaller network and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from alds_cli.allocation import DEFAULT_DEFINITION
from alds_cli.api.models import (
    AS_IT_IS,
    Model,
    Source,
    open_network,
    require_target,
    trace_network,
    write_network,
)
from alds_cli.api.timing import Clock
from alds_cli.checkpoint import read_plan, write_plan
from alds_cli.compression import (
    carry_out,
    layer_reports,
    parse_ratio,
    plan_for_ratio,
    select_layers,
)
from alds_cli.errors import ContractError, OptionError, PlanError
from alds_cli.loading import Network
from alds_cli.methods import method_named
from alds_cli.numerics.counting import Trace, count_parameters
from alds_cli.profiling import error_tables
from alds_cli.records import (
    CompressionReport,
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
    ProgressCallback,
)
from alds_cli.surgery import find_layers, require_fitting


@dataclass(frozen=True, slots=True)
class CompressionResult:
    """The compressed network (None after a dry run), its plan and its report."""

    network: Network | None
    plan: Plan
    report: CompressionReport
    output: str | None = None


@dataclass(slots=True)
class _Work:
    """What the stages of one compression hand on to each other."""

    network: Network
    specs: dict[str, LayerSpec]
    before: Trace
    params_before: int
    asked: Fraction | None
    clock: Clock
    tables: ErrorTable
    plan: Plan

    def report(
        self, layers: Sequence[LayerReport], macs_after: int | None, nbytes: int | None
    ) -> CompressionReport:
        """The figures of the finished work."""
        saved = sum(layer.params_before - layer.params_after for layer in layers)
        return CompressionReport(
            method=self.plan.method,
            solver=self.plan.solver,
            bound=self.plan.bound,
            seed=self.plan.seed,
            ratio_asked=None if self.asked is None else float(self.asked),
            params_before=self.params_before,
            params_after=self.params_before - saved,
            macs_before=self.before.macs,
            macs_after=macs_after,
            layers=layers,
            seconds=self.clock.seconds,
            bytes_before=self.network.nbytes,
            bytes_after=nbytes,
            objective=self.plan.objective,
        )


def compress(
    model: Model,
    source: Source = AS_IT_IS,
    *,
    ratio: float | str | Fraction | None = None,
    plan: Plan | str | Path | None = None,
    output: str | Path | None = None,
    plan_output: str | Path | None = None,
    method: str = "alds",
    solver: str = "exact",
    bound: str = DEFAULT_DEFINITION,
    seed: int = 0,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    table: str | Path | None = None,
    cache: bool = True,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> CompressionResult:
    """Make a network smaller.

    Args:
        model: the network; pairs of an artefact are multiplied back first.
        source: how to read its file.
        ratio: fraction of all parameters to remove, in (0, 1); never less is removed.
        plan: carry this plan out instead of making one; with `ratio` it must reach that.
        output: where to write the artefact; `-` is standard output.
        plan_output: where to write the plan as JSON.
        method: how to plan, a key of `methods.METHODS`.
        solver: the method's optimiser.
        bound: what to minimise the maximum of, a key of `allocation.ERROR_DEFINITIONS`.
        seed: for solvers that draw random numbers.
        include: patterns of layers to decompose; none given means all.
        exclude: patterns of layers to keep.
        table: an error table written by `profile`.
        cache: use the cache in the user's folder.
        dry_run: plan only; no artefact is written.
        progress: told how far it is.

    Raises:
        OptionError: options make no sense, alone or together.
        RatioUnreachableError: the ratio cannot be had.
        AldsError: the model cannot be read, or a result not be written.
    """
    asked = None if ratio is None else parse_ratio(ratio)
    given = _given_plan(plan, asked)
    schemes = _schemes(given, method)
    for target in (None if dry_run else output, plan_output):
        if target is not None:
            require_target(target)
    clock = Clock()
    with clock("load"):
        network = open_network(model, source, multiply_back=True)
        before = trace_network(network)
        specs = select_layers(find_layers(network.module, before), include, exclude)
    with clock("profile"):
        tables, _ = error_tables(
            network.module,
            specs,
            schemes=schemes,
            table=None if table is None else Path(table),
            cache=cache,
            progress=progress,
        )
    with clock("allocate"):
        chosen = given or plan_for_ratio(
            network.module,
            specs,
            tables,
            asked or Fraction(0),
            method=method,
            solver=solver,
            bound=bound,
            seed=seed,
        )
    require_fitting(specs, chosen.choices)
    params = count_parameters(network.module)
    work = _Work(network, specs, before, params, asked, clock, tables, chosen)
    planned = work.report(layer_reports(specs, tables, chosen), None, None)
    _require_ratio(planned, asked)
    if plan_output is not None:
        write_plan(chosen, Path(plan_output))
    if dry_run:
        return CompressionResult(None, chosen, planned)
    return _finish(work, output, progress)


def _given_plan(plan: Plan | str | Path | None, asked: Fraction | None) -> Plan | None:
    """The plan to replay; a layer may be decomposed by it whatever method made it."""
    if plan is None and asked is None:
        raise OptionError(
            "how small? Neither a ratio nor a plan is given",
            tip="--ratio 0.5 leaves at most half of the parameters",
        )
    return plan if plan is None or isinstance(plan, Plan) else read_plan(Path(plan))


def _schemes(given: Plan | None, method: str) -> tuple[int, ...]:
    if given is None:
        return method_named(method).schemes
    return tuple(sorted({choice.scheme for choice in given.decomposed.values()}))


def _require_ratio(report: CompressionReport, asked: Fraction | None) -> None:
    """The ratio contract, in whole numbers."""
    if asked is not None and report.params_after > (1 - asked) * report.params_before:
        raise ContractError(
            f"the plan removes {report.ratio:.4f} of the parameters, "
            f"less than the {float(asked):g} asked for",
            tip="lower some j in the plan, or leave out --ratio",
        )


def _finish(
    work: _Work, output: str | Path | None, progress: ProgressCallback | None
) -> CompressionResult:
    """Decompose, see that the network still runs, and write it."""
    network = work.network
    with work.clock("decompose"):
        layers = carry_out(network.module, work.specs, work.tables, work.plan, progress=progress)
        compressed = replace(
            network,
            plan=work.plan,
            source_hash=work.tables.weights_hash,
            params_before=work.params_before,
            nbytes=None,
        )
        after = trace_network(compressed)
    if work.before.macs is not None and after.macs is None:
        raise PlanError(
            "the compressed network does not run: its code reaches into a layer that was replaced",
            tip="find the layer with -v, and keep it: --exclude NAME",
        )
    with work.clock("save"):
        nbytes = None if output is None else write_network(compressed, output)
    report = work.report(layers, after.macs, nbytes)
    counted = count_parameters(compressed.module)
    if counted != report.params_after:
        raise AssertionError(f"reported {report.params_after} parameters, but has {counted}")
    compressed.nbytes = nbytes
    return CompressionResult(compressed, work.plan, report, None if output is None else str(output))
