"""What either way to make a network smaller begins with, and how it tells what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from alds_cli.allocation import DEFAULT_DEFINITION, smallest_cost
from alds_cli.allocation import error_bound as proven_bound
from alds_cli.calibration import calibration_batches
from alds_cli.datasets import Batches, opened
from alds_cli.errors import OptionError
from alds_cli.methods import METHODS, Statistic, method_named, schemes_of
from alds_cli.network.loading import Network
from alds_cli.network.opening import settled_preprocessing
from alds_cli.numerics.costs import pair_params
from alds_cli.numerics.factors import rounding_of_factors
from alds_cli.numerics.fold import distinct_schemes
from alds_cli.options.compress_options import CompressOptions
from alds_cli.records import (
    CLUSTERED,
    Choice,
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
)
from alds_cli.runtime.devices import Clock
from alds_cli.surgery import reason_against_clusters
from alds_cli.tracing.trace import Trace


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A network, and what is asked of it.

    Attributes:
        network: as it is before.
        trace: a forward pass.
        specs: its layers, with the reasons of those that must stay as they are.
        options: how to plan, and where tables may be kept.
        given: the plan to carry out, instead of making one.
        clock: for the stages of the run.
    """

    network: Network
    trace: Trace
    specs: Mapping[str, LayerSpec]
    options: CompressOptions
    given: Plan | None
    clock: Clock

    @property
    def method(self) -> str:
        """The name of the method that plans, or that made the plan given."""
        return self.options.method if self.given is None else self.given.method


def schemes_needed(options: CompressOptions, given: Plan | None) -> tuple[int, ...]:
    """Return the folding schemes that the method, or the plan given, needs tables of."""
    if given is None:
        method = method_named(options.method)
        arguments = method.settled_arguments(options.method, options.method_args)
        return schemes_of(method, arguments)
    schemes = {choice.scheme for choice in given.decomposed.values()}
    return tuple(sorted({0 if scheme == CLUSTERED else scheme for scheme in schemes}))


def statistics_needed(options: CompressOptions, given: Plan | None) -> tuple[Statistic, ...]:
    """Return what carrying out the method's plan, or the one given, takes beside tables.

    A plan that is given never decides what code is imported: of one that the tool has no
    method for, slices are approximated by their singular vectors.
    """
    if given is None:
        return method_named(options.method).needs
    return METHODS[given.method].needs if given.method in METHODS else ()


_TOGETHER = 32
"""Images in a forward pass; fixed, since sums are rounded by it."""


def batches_for(network: Network, options: CompressOptions, method: str) -> Batches:
    """The sample of images that a method looks at.

    Args:
        network: as it is read.
        options: where the images are, how many of them, and the seed of the draw.
        method: its name, for messages.

    Raises:
        OptionError: no images are named, or nobody says how they become the input.
        DataError: they cannot be used.
    """
    if options.data is None:
        raise OptionError(
            f"the method {method} plans by what the network does with images, and none are named",
            tip="--data tensors:FILE, imagefolder:DIR or cifar10:DIR: training images",
        )
    prepared = settled_preprocessing(options.preprocessing, network)
    return calibration_batches(
        opened(options.data, split="train", download=options.download),
        prepared,
        samples=options.samples,
        seed=options.seed,
        batch_size=_TOGETHER,
        workers=options.workers,
    )


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
