"""What became of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch

from alds_cli.allocation import DEFAULT_DEFINITION, smallest_cost
from alds_cli.allocation import error_bound as proven_bound
from alds_cli.errors import OptionError
from alds_cli.numerics.costs import pair_params
from alds_cli.numerics.factors import rounding_of_factors
from alds_cli.numerics.fold import distinct_schemes
from alds_cli.records import (
    CLUSTERED,
    Choice,
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
)
from alds_cli.surgery import reason_against_clusters

NOT_SMALLER = "no low-rank pair is smaller"
NOT_CHOSEN = "the allocation keeps it"


def layer_reports(
    specs: Mapping[str, LayerSpec],
    tables: ErrorTable,
    plan: Plan,
    types: Mapping[str, torch.dtype],
    errors: Mapping[str, float] | None = None,
    *,
    tabled: bool = True,
) -> list[LayerReport]:
    """What becomes of every layer; without measured errors the bounds stand alone.

    `types` are those that layers hold their weights in. `tabled` says whether the pairs of slices
    are those of the tables, which know bounds on their errors.
    """
    bound = (plan.bound or DEFAULT_DEFINITION) if tabled else None
    clustered = any(choice.scheme == CLUSTERED for choice in plan.decomposed.values())
    return [
        _report(
            spec,
            tables,
            plan.choices.get(name),
            bound,
            types,
            (errors or {}).get(name),
            clustered=clustered,
        )
        for name, spec in specs.items()
    ]


def _report(
    spec: LayerSpec,
    tables: ErrorTable,
    choice: Choice | None,
    bound: str | None,
    types: Mapping[str, torch.dtype],
    error: float | None,
    *,
    clustered: bool,
) -> LayerReport:
    if choice is None:
        reason = spec.reason or _why_kept(spec, tables, clustered=clustered)
        return LayerReport(spec.name, spec.weight_shape, spec.params, spec.params, reason=reason)
    bias = spec.params - spec.weight_params
    error_bound = None
    if bound is not None and choice.scheme != CLUSTERED:
        table = tables.layers[spec.name]
        rounding = rounding_of_factors(table, choice, types[spec.name])
        error_bound = proven_bound(table, choice, bound, rounding)
    return LayerReport(
        spec.name,
        spec.weight_shape,
        spec.params,
        pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups) + bias,
        choice=choice,
        error=error,
        error_bound=error_bound,
    )


def _why_kept(spec: LayerSpec, tables: ErrorTable, *, clustered: bool) -> str:
    table = tables.layers.get(spec.name)
    # A plan that was handed in may need no table of this layer.
    schemes = distinct_schemes(spec.kernel) if table is None else tuple(table.norms)
    if smallest_cost(spec, schemes) >= spec.weight_params:
        return NOT_SMALLER
    return (reason_against_clusters(spec) if clustered else None) or NOT_CHOSEN


LEFT_OUT = "left out by --include or --exclude"
"""The reason of a layer that the patterns leave out."""


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
        name: spec if spec.reason is not None or selected(name) else replace(spec, reason=LEFT_OUT)
        for name, spec in specs.items()
    }
