"""Planning within a budget, and carrying a plan out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.allocation import (
    DEFAULT_DEFINITION,
    ERROR_DEFINITIONS,
    error_bound,
    smallest_cost,
)
from alds_cli.errors import OptionError, RatioUnreachableError
from alds_cli.methods import method_named
from alds_cli.numerics.costs import pair_params
from alds_cli.numerics.counting import count_parameters
from alds_cli.numerics.factors import low_rank_factors
from alds_cli.numerics.fold import distinct_schemes, factors_to_weights, fold
from alds_cli.numerics.norms import residual_norm
from alds_cli.numerics.pool import Spawn, run_jobs
from alds_cli.records import (
    Choice,
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.surgery import install_pair, require_fitting

NOT_SMALLER = "no low-rank pair is smaller"
NOT_CHOSEN = "the allocation keeps it"


def parse_ratio(value: str | float | Fraction) -> Fraction:
    """A ratio as an exact number, as its decimal digits say.

    Raises:
        OptionError: it does not lie strictly between 0 and 1.
    """
    try:
        ratio = value if isinstance(value, Fraction) else Fraction(_written_out(str(value)))
    except (ValueError, ZeroDivisionError):
        ratio = Fraction(0)
    if not 0 < ratio < 1:
        raise OptionError(
            f"the ratio is the fraction of the parameters to remove, between 0 and 1, not {value}",
            tip="--ratio 0.5 leaves at most half of the parameters",
        )
    return ratio


def _written_out(text: str) -> str:
    """The text, unless its exponent would take all memory to write out."""
    exponent = text.lower().partition("e")[2].lstrip("+-0")
    if len(exponent) > 4:
        raise ValueError(text)
    return text


def select_layers(
    specs: Mapping[str, LayerSpec], include: Sequence[str], exclude: Sequence[str]
) -> dict[str, LayerSpec]:
    """Keep layers that the patterns leave out, and say so.

    Args:
        specs: all layers.
        include: shell patterns; only matching layers are decomposed. None given: all.
        exclude: shell patterns; matching layers are kept.

    Raises:
        OptionError: a pattern matches no layer, which is most likely a slip.
    """
    for option, patterns in (("--include", include), ("--exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in specs):
                raise OptionError(
                    f"{option} {pattern} matches no layer",
                    tip="`alds inspect FILE` lists the names",
                )

    def selected(name: str) -> bool:
        wanted = not include or any(fnmatchcase(name, pattern) for pattern in include)
        return wanted and not any(fnmatchcase(name, pattern) for pattern in exclude)

    return {
        name: spec
        if spec.reason is not None or selected(name)
        else replace(spec, reason="left out by --include or --exclude")
        for name, spec in specs.items()
    }


def plan_for_ratio(
    module: nn.Module,
    specs: Mapping[str, LayerSpec],
    tables: ErrorTable,
    ratio: Fraction,
    *,
    method: str = "alds",
    solver: str = "exact",
    bound: str = DEFAULT_DEFINITION,
    seed: int = 0,
) -> Plan:
    """Choose for every layer so that at least `ratio` of all parameters are removed.

    Args:
        module: the network, for its number of parameters.
        specs: its layers.
        tables: error tables of those that may be decomposed.
        ratio: see `parse_ratio`.
        method: a key of `methods.METHODS`.
        solver: one of the method's.
        bound: the error definition, a key of `allocation.ERROR_DEFINITIONS`.
        seed: for what draws random numbers.

    Raises:
        OptionError: a name is unknown.
        RatioUnreachableError: even the smallest network removes less.
    """
    chosen = method_named(method)
    _require_known("solver", solver, chosen.solvers)
    _require_known("bound", bound, ERROR_DEFINITIONS)
    own = [replace(tables.layers[n], spec=s) for n, s in specs.items() if s.reason is None]
    total = count_parameters(module)
    fixed = total - sum(table.spec.weight_params for table in own)
    smallest = fixed + sum(
        smallest_cost(table.spec, sorted(set(chosen.schemes) & set(table.norms))) for table in own
    )
    allowed = int((1 - ratio) * total)  # towards zero: never removes less than asked
    if smallest > allowed:
        _refuse(ratio, total, smallest)
    plan = chosen.plan(own, allowed - fixed, solver=solver, bound=bound, seed=seed)
    return replace(plan, choices={name: plan.choices.get(name) for name in specs})


def _refuse(ratio: Fraction, total: int, smallest: int) -> None:
    thousandths = (total - smallest) * 10_000 // total
    largest = thousandths / 10_000
    raise RatioUnreachableError(
        f"a ratio of {float(ratio):g} cannot be reached: the smallest network that this method "
        f"can make has {smallest:,} of {total:,} parameters; the largest ratio is {largest:.4f}",
        largest=largest,
        tip=f"--ratio {largest:.4f}, or decompose more layers (--include, --exclude)"
        if largest > 0
        else "no layer of this network can be made smaller",
    )


def _require_known(option: str, value: str, known: Sequence[str] | Mapping[str, object]) -> None:
    if value not in known:
        raise OptionError(f"unknown {option} '{value}'", tip=f"choose from {', '.join(known)}")


@dataclass(slots=True)
class _PairJob:
    """Factors of one layer and the true error of what will be stored, for the pool."""

    weight: Tensor
    choice: Choice
    norm: float
    weights: tuple[Tensor, ...] = ()
    error: float = 0.0

    @property
    def nbytes(self) -> int:
        """About what a Gram matrix of the layer and its eigenvectors take."""
        rows, channels, width = fold(self.weight, self.choice.scheme).shape
        return 3 * 8 * min(rows, channels * width) ** 2

    def __call__(self, spawn: Spawn) -> None:
        """Factor, then measure with the numbers as they are rounded for storage."""
        del spawn
        matrix = fold(self.weight, self.choice.scheme)
        left, right = low_rank_factors(matrix, self.choice.k, self.choice.j, self.weight.dtype)
        if self.norm > 0:
            self.error = residual_norm(matrix, left, right) / self.norm
        self.weights = factors_to_weights(left, right, tuple(self.weight.shape), self.choice.scheme)


def carry_out(
    module: nn.Module,
    specs: Mapping[str, LayerSpec],
    tables: ErrorTable,
    plan: Plan,
    *,
    progress: ProgressCallback | None = None,
) -> list[LayerReport]:
    """Replace the plan's layers by pairs, in place.

    Args:
        module: the network; changed.
        specs: its layers.
        tables: error tables that cover the plan's choices.
        plan: what to do; layers it does not name are kept.
        progress: told of every pair finished; its task is `decompose`.

    Returns:
        What became of every layer.

    Raises:
        PlanError: the plan does not fit the network; nothing has been changed then.
    """
    require_fitting(specs, plan.choices)
    jobs: dict[str, _PairJob] = {}
    for name, choice in plan.decomposed.items():
        layer: Any = module.get_submodule(name)
        norm = tables.layers[name].norms[choice.scheme]
        jobs[name] = _PairJob(layer.weight.detach(), choice, norm)
    # The largest first: what it takes is gone before the others' results pile up.
    names = sorted(jobs, key=lambda name: -jobs[name].nbytes)
    errors: dict[str, float] = {}

    def finished(index: int) -> None:
        name = names[index]
        job = jobs[name]
        install_pair(module, name, job.choice, job.weights)
        job.weight, job.weights = torch.empty(0), ()  # neither is needed twice in memory
        errors[name] = job.error
        if progress is not None:
            progress(ProgressEvent("decompose", len(errors), len(names)))

    with torch.no_grad():
        run_jobs([jobs[name] for name in names], on_done=finished)
    return layer_reports(specs, tables, plan, errors)


def layer_reports(
    specs: Mapping[str, LayerSpec],
    tables: ErrorTable,
    plan: Plan,
    errors: Mapping[str, float] | None = None,
) -> list[LayerReport]:
    """What becomes of every layer; without measured errors the bounds stand alone."""
    return [
        _report(
            spec,
            tables,
            plan.choices.get(name),
            plan.bound or DEFAULT_DEFINITION,
            (errors or {}).get(name),
        )
        for name, spec in specs.items()
    ]


def _report(
    spec: LayerSpec,
    tables: ErrorTable,
    choice: Choice | None,
    bound: str,
    error: float | None,
) -> LayerReport:
    if choice is None:
        reason = spec.reason or _why_kept(spec, tables)
        return LayerReport(spec.name, spec.weight_shape, spec.params, spec.params, reason=reason)
    bias = spec.params - spec.weight_params
    return LayerReport(
        spec.name,
        spec.weight_shape,
        spec.params,
        pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups) + bias,
        choice=choice,
        error=error,
        error_bound=error_bound(tables.layers[spec.name], choice, bound),
    )


def _why_kept(spec: LayerSpec, tables: ErrorTable) -> str:
    table = tables.layers.get(spec.name)
    # A plan that was handed in may need no table of this layer.
    schemes = distinct_schemes(spec.kernel) if table is None else tuple(table.norms)
    return NOT_CHOSEN if smallest_cost(spec, schemes) < spec.weight_params else NOT_SMALLER
