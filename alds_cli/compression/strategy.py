"""What either way to make a network smaller begins with, and how it tells what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from alds_cli.allocation import DEFAULT_DEFINITION, smallest_cost
from alds_cli.allocation import error_bound as proven_bound
from alds_cli.calibration import calibration_batches
from alds_cli.compression.settings import Settings
from alds_cli.datasets import Batches, opened
from alds_cli.errors import OptionError
from alds_cli.network.loading import Network
from alds_cli.network.opening import settled_preprocessing
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
        settings: how to plan, and where tables may be kept.
        given: the plan to carry out, instead of making one.
        clock: for the stages of the run.
    """

    network: Network
    trace: Trace
    specs: Mapping[str, LayerSpec]
    settings: Settings
    given: Plan | None
    clock: Clock

    @property
    def method(self) -> str:
        """The name of the method that plans, or that made the plan given."""
        return self.settings.method if self.given is None else self.given.method


_TOGETHER = 32
"""Images in a forward pass; fixed, since sums are rounded by it."""


def batches_for(network: Network, settings: Settings, method: str) -> Batches:
    """The sample of images that a method looks at.

    Args:
        network: as it is read.
        settings: where the images are, how many of them, and the seed of the draw.
        method: its name, for messages.

    Raises:
        OptionError: no images are named, or nobody says how they become the input.
        DataError: they cannot be used.
    """
    if settings.data is None:
        raise OptionError(
            f"the method {method} plans by what the network does with images, and none are named",
            tip="--data tensors:FILE, imagefolder:DIR or cifar10:DIR: training images",
        )
    prepared = settled_preprocessing(settings.preprocessing, network)
    return calibration_batches(
        opened(settings.data, split="train", download=settings.download),
        prepared,
        samples=settings.samples,
        seed=settings.seed,
        batch_size=_TOGETHER,
        workers=settings.workers,
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
