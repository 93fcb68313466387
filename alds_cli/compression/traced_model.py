"""What both strategies share: the traced network, its cost in every resource, and layer reports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from alds_cli.allocation import (
    DEFAULT_DEFINITION,
    operator_bound,
    rounding_of_factors,
    smallest_cost,
)
from alds_cli.calibration import Statistic, calibration_batches
from alds_cli.compression.latency_model import LatencyModel
from alds_cli.compression.targets import (
    Budget,
    Resource,
    Target,
    file_bytes,
    multiply_accumulates,
    nanoseconds,
    parameters,
    pruned_amount,
    time_per_saving,
)
from alds_cli.datasets import Batches, MaskedImages, TokenBatches, opened_samples
from alds_cli.errors import OptionError
from alds_cli.inputs import inputs_tip
from alds_cli.methods import METHODS, Method, factorisation_for, method_named, schemes_of
from alds_cli.network.networks import Network
from alds_cli.network.opening import preparation_of, written_size
from alds_cli.numerics.fold import distinct_schemes, pair_params
from alds_cli.options.compress_options import CompressOptions
from alds_cli.records import (
    OPERATOR,
    SLICED,
    Choice,
    ErrorTable,
    IntArray,
    LayerReport,
    LayerSpec,
    Plan,
)
from alds_cli.runtime.devices import Clock
from alds_cli.surgery import form_of, prune_network, reshape_network, weight_at
from alds_cli.surgery.channels import Channels
from alds_cli.tracing.trace import Trace, count_parameters, meta_copy


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


def batches_for(network: Network, options: CompressOptions, method: str) -> Batches | TokenBatches:
    """Return the sample of images or texts on which a method observes the network.

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
    images = opened_samples(options.data, split="train", download=options.download)
    prepared = preparation_of(images, options.preprocessing, network)
    together = _TOGETHER
    if isinstance(images, MaskedImages) and prepared is not None:
        from alds_cli.evaluation import most_together  # noqa: PLC0415 - others do without it

        together = most_together(images, prepared, _TOGETHER)
    return calibration_batches(
        images,
        prepared,
        samples=options.samples,
        seed=options.seed,
        batch_size=together,
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


class CostModel:
    """The cost of one network, before and after a plan.

    Args:
        network: the network before anything is decomposed; it is not changed.
        specs: its layers that may be decomposed, by name.
        before: a recorded forward pass of the network.
        target: what the user asks of the compressed network.
        weights_hash: the hash of the layers' weights, which an artefact records.
        channels: the channels that can be removed; None where layers become pairs.
        naming: a plan without choices that names the method and its settings, as the artefact will.
        output: the artefact's file name, which determines its format.
        measuring: makes the latency model; called only where times count.
    """

    def __init__(
        self,
        network: Network,
        specs: Mapping[str, LayerSpec],
        before: Trace,
        target: Target,
        *,
        weights_hash: str,
        channels: Channels | None,
        naming: Plan,
        output: str,
        measuring: Callable[[], LatencyModel],
    ) -> None:
        self._network = network
        self._specs = specs
        self._before = before
        self._target = target
        self._weights_hash = weights_hash
        self._channels = channels
        self._naming = naming
        self._output = output
        self._params = count_parameters(network.module)
        self._measuring = measuring
        self._sized: tuple[Plan, int] | None = None

    @cached_property
    def latency_model(self) -> LatencyModel:
        """The measured times, made when first needed."""
        return self._measuring()

    def budgets(self) -> list[Budget]:
        """Return the budgets of the target, the tighter one where a resource has ratio and limit.

        Raises:
            OptionError: MACs or times are limited, but no forward pass is possible.
        """
        found: list[Budget] = []
        for name in self._target.resources:
            resource = self.resource(name)
            limit = self._target.limits.get(name)
            if self._target.ratio is not None and self._target.resource == name:
                asked = Budget.of_ratio(resource, self._target.ratio)
                found.append(
                    asked if limit is None or asked.allowed <= limit else Budget(resource, limit)
                )
            elif limit is not None:
                found.append(Budget(resource, limit))
            else:
                whole = resource.before
                found.append(Budget(resource, whole, efficiency=self._target.efficiency))
        return found

    @property
    def asked(self) -> Resource:
        """The resource that the target's ratio refers to."""
        return self.resource(self._target.resource)

    def resource(self, name: str) -> Resource:
        """Return the resource of this name, one of `targets.TARGETS` or `efficiency`."""
        return {
            "params": lambda: self._parameters,
            "macs": lambda: self._macs,
            "bytes": lambda: self._bytes,
            "latency": lambda: self._latency,
            "efficiency": lambda: time_per_saving(
                self._latency, self.asked, self._target.efficiency or Fraction(0)
            ),
        }[name]()

    def spending(self, name: str, spec: LayerSpec, choices: IntArray) -> IntArray:
        """Return how much of a resource the choices (n, 3) of a layer cost, as (n,).

        Raises:
            OptionError: MACs are asked for, but no forward pass is possible.
        """
        return self.resource(name).prices(spec, choices)

    @cached_property
    def _skeleton(self) -> nn.Module:
        """A copy on the meta device, kept because the network may be taken apart later."""
        return meta_copy(self._network.module)

    @cached_property
    def _parameters(self) -> Resource:
        return parameters(self._specs, self._params)

    @cached_property
    def _macs(self) -> Resource:
        macs = self._before.macs
        if macs is None:
            reason = self._before.failure or "the network runs, but not while they are counted"
            raise OptionError(
                f"the network's MACs are not known: {reason}",
                tip=inputs_tip(self._network.inputs),
            )
        return multiply_accumulates(self._specs, macs, self._before.calls)

    @cached_property
    def _bytes(self) -> Resource:
        all_kept = self.size_after(Plan({}))
        sizes = {name: weight_at(self._skeleton, name).itemsize for name in self._specs}
        before = self._network.nbytes or all_kept
        pairs = {
            name: Choice(0, 1, 1)
            for name, spec in self._specs.items()
            if pair_params(spec.weight_shape, 0, 1, 1, spec.groups) < spec.weight_params
        }
        # The bytes of names and entries are derived from the smallest network there is, so that
        # its size is predicted exactly; for other plans it is close, and they are made to fit.
        bare = file_bytes(self._specs, before, all_kept, sizes, 0)
        smallest = Plan(dict(pairs))
        beside = self.size_after(replace(self._naming, choices=pairs)) - self.after(bare, smallest)
        per_pair, rest = divmod(max(0, beside), max(1, len(pairs)))
        return file_bytes(self._specs, before, all_kept + rest, sizes, per_pair)

    def after(self, resource: Resource, plan: Plan) -> int:
        """Return the network's cost after a plan, as the sum of its layers' prices."""
        if plan.pruned and self._channels is not None:
            return pruned_amount(self._channels, resource, self._before.calls, plan.pruned)
        spent = resource.fixed
        for name, spec in self._specs.items():
            choice = plan.choices.get(name)
            row = (choice.scheme, choice.k, choice.j) if choice is not None else (0, 0, 0)
            spent += int(resource.prices(spec, np.array([row]))[0])
        return spent

    def size_after(self, plan: Plan) -> int:
        """Return the bytes of the artefact that holds the network after a plan.

        Raises:
            ArchitectureError: it is not known how to build the network.
        """
        if self._sized is None or self._sized[0] is not plan:
            skeleton = meta_copy(self._skeleton)
            reshape_network(skeleton, plan.decomposed)
            prune_network(skeleton, plan.pruned)
            compressed = self._network.compressed_by(plan, self._weights_hash, self._params)
            compressed = replace(compressed, module=skeleton)
            self._sized = plan, written_size(compressed, self._output)
        return self._sized[1]

    @cached_property
    def _latency(self) -> Resource:
        times = self.latency_model.measured
        return nanoseconds(
            self.latency_model.network_ns,
            {name: layer.dense_ns for name, layer in times.items()},
            {name: layer.pairs for name, layer in times.items()},
        )
