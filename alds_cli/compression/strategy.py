"""The common ground of both strategies: the traced network, its images and layer reports."""

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
    """A network with its trace, and what is asked of it.

    Attributes:
        network: the network before anything is changed.
        trace: a recorded forward pass.
        specs: its layers, by name, with the reasons of those that must stay as they are.
        options: how to plan, and where tables may be kept.
        given: the plan to carry out; None makes one.
        clock: measures the stages of the run.
    """

    network: Network
    trace: Trace
    specs: Mapping[str, LayerSpec]
    options: CompressOptions
    given: Plan | None
    clock: Clock

    @property
    def method(self) -> str:
        """The name of the method that plans, or that made the given plan."""
        return self.options.method if self.given is None else self.given.method

    @property
    def entry(self) -> Method | None:
        """The method's entry; None where the given plan was made by a method unknown here.

        A given plan never decides what code is imported.
        """
        if self.given is None:
            return method_named(self.options.method)
        return METHODS.get(self.given.method)

    @property
    def needs(self) -> Sequence[Statistic[Any]]:
        """The statistics needed to make the plan, or the factors of the given one."""
        return () if self.entry is None else self.entry.needs


def schemes_needed(options: CompressOptions, given: Plan | None) -> tuple[int, ...]:
    """Return the folding schemes for which the method, or the given plan, needs tables."""
    if given is None:
        method = method_named(options.method)
        arguments = method.settled_arguments(options.method, options.method_args)
        return schemes_of(method, arguments)
    schemes = {choice.scheme for choice in given.decomposed.values()}
    return tuple(sorted({scheme if scheme in SLICED else OPERATOR for scheme in schemes}))


_TOGETHER = 32
"""Images in one forward pass; a constant, because sums are rounded differently in others."""


def batches_for(network: Network, options: CompressOptions, method: str) -> Batches:
    """Return the sample of images on which a method observes the network.

    Args:
        network: the network as it was read.
        options: where the images are, how many of them, and the seed of the draw.
        method: the method's name, for messages.

    Raises:
        OptionError: no images are named, or their preprocessing is not known.
        DataError: they cannot be read.
    """
    if options.data is None:
        raise OptionError(
            f"the method {method} observes the network on images, and none are named",
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
    """Report on every layer, with measured errors where they are given and bounds in any case.

    All errors and bounds are those of the paper's fold, whatever scheme a pair has.

    Args:
        specs: the network's layers, by name.
        tables: error tables that cover the plan's choices.
        plan: the choices.
        types: the data types of the layers' weights.
        norms: ‖W‖₂ in the paper's fold of the layers that change, in the units of the tables.
        errors: the measured errors of the layers that were changed, relative to that norm.
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
    """Return why a layer that could be a pair is kept, given the schemes of the plan's pairs."""
    table = tables.layers.get(spec.name)
    # A given plan may need no table of this layer.
    schemes = distinct_schemes(spec.kernel) if table is None else tuple(table.norms)
    if smallest_cost(spec, schemes) >= spec.weight_params:
        return NOT_SMALLER
    reasons = (form_of(scheme).reason_against(spec) for scheme in planned)
    return next(filter(None, reasons), NOT_CHOSEN)
