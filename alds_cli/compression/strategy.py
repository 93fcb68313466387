"""What either way to make a network smaller begins with, and how it tells what became of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alds_cli.allocation import (
    DEFAULT_DEFINITION,
    operator_bound,
    rounding_of_factors,
    smallest_cost,
)
from alds_cli.calibration import Statistic, calibration_batches
from alds_cli.datasets import Batches, opened
from alds_cli.errors import OptionError
from alds_cli.methods import METHODS, Method, factorisation_for, method_named, schemes_of
from alds_cli.network.networks import Network
from alds_cli.network.opening import settled_preprocessing
from alds_cli.numerics.costs import pair_params
from alds_cli.numerics.fold import distinct_schemes
from alds_cli.options.compress_options import CompressOptions
from alds_cli.records import (
    Choice,
    ErrorTable,
    LayerReport,
    LayerSpec,
    Plan,
)
from alds_cli.runtime.devices import Clock
from alds_cli.schemes import OPERATOR, SLICED
from alds_cli.surgery import form_of
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

    @property
    def entry(self) -> Method | None:
        """The method's entry; None for a plan by one that the tool does not have.

        A plan that is given never decides what code is imported.
        """
        if self.given is None:
            return method_named(self.options.method)
        return METHODS.get(self.given.method)

    @property
    def needs(self) -> Sequence[Statistic[Any]]:
        """What making the plan, or the factors of the one given, takes beside tables."""
        return () if self.entry is None else self.entry.needs


def schemes_needed(options: CompressOptions, given: Plan | None) -> tuple[int, ...]:
    """Return the folding schemes that the method, or the plan given, needs tables of."""
    if given is None:
        method = method_named(options.method)
        arguments = method.settled_arguments(options.method, options.method_args)
        return schemes_of(method, arguments)
    schemes = {choice.scheme for choice in given.decomposed.values()}
    return tuple(sorted({own if own in SLICED else OPERATOR for own in schemes}))


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
    norms: Mapping[str, float],
    errors: Mapping[str, float] | None = None,
    *,
    method: Method | None = None,
) -> list[LayerReport]:
    """What becomes of every layer; without measured errors the bounds stand alone.

    All errors and bounds are those of the paper's fold, whatever scheme a pair has.

    Args:
        specs: the network's layers.
        tables: error tables that cover the plan's choices.
        plan: what is made of them.
        types: those that layers hold their weights in.
        norms: ‖W‖₂ in the paper's fold of the layers that change, in the units of the tables.
        errors: of the layers that were changed, relative to that norm.
        method: the entry of the method that made the plan. Bounds are known only where its
            factors are those of the tables.
    """
    schemes = {choice.scheme for choice in plan.decomposed.values()}
    reports = []
    for name, spec in specs.items():
        choice = plan.choices.get(name)
        if choice is None:
            reports.append(_report_of_kept(spec, tables, schemes))
            continue
        bound = None
        if factorisation_for(method, choice.scheme).tabled:
            table, definition = tables.layers[name], plan.bound or DEFAULT_DEFINITION
            rounding = rounding_of_factors(table, choice, types[name])
            bound = operator_bound(table, choice, definition, norms[name], rounding)
        reports.append(_report_of_pair(spec, choice, (errors or {}).get(name), bound))
    return reports


def _report_of_kept(spec: LayerSpec, tables: ErrorTable, schemes: Collection[int]) -> LayerReport:
    reason = spec.reason or _why_kept(spec, tables, schemes)
    return LayerReport(spec.name, spec.weight_shape, spec.params, spec.params, reason=reason)


def _report_of_pair(
    spec: LayerSpec, choice: Choice, error: float | None, error_bound: float | None
) -> LayerReport:
    bias = spec.params - spec.weight_params
    return LayerReport(
        spec.name,
        spec.weight_shape,
        spec.params,
        pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups) + bias,
        choice=choice,
        error=error,
        error_bound=error_bound,
    )


def _why_kept(spec: LayerSpec, tables: ErrorTable, planned: Collection[int]) -> str:
    """Why a layer is kept that could be a pair, where others became pairs of these schemes."""
    table = tables.layers.get(spec.name)
    # A plan that was handed in may need no table of this layer.
    schemes = distinct_schemes(spec.kernel) if table is None else tuple(table.norms)
    if smallest_cost(spec, schemes) >= spec.weight_params:
        return NOT_SMALLER
    reasons = (form_of(scheme).reason_against(spec) for scheme in planned)
    return next(filter(None, reasons), NOT_CHOSEN)
