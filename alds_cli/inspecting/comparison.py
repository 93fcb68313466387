"""Several models beside each other: sizes, errors, and on images quality and time."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from alds_cli.datasets import Batches, opened, require_moderate
from alds_cli.errors import ArchitectureError, OptionError
from alds_cli.evaluation.models import Measured, evaluate_several
from alds_cli.inputs import InputSpec
from alds_cli.inspecting.layer_errors import layer_errors
from alds_cli.latency.fastest_form import with_fastest_form
from alds_cli.network.loading import densified
from alds_cli.network.networks import Network
from alds_cli.network.opening import (
    answering,
    open_network,
    settled_preprocessing,
    trace_network,
)
from alds_cli.options.compare_options import CompareOptions
from alds_cli.options.evaluate_options import EvaluateOptions
from alds_cli.records import Comparison, FloatArray, Latency
from alds_cli.runtime.devices import (
    as_latency,
    device_name,
    median_at_least,
    pick_device,
    time_networks,
)
from alds_cli.tracing.trace import count_parameters

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TimeRatio:
    """A time as a multiple of another, round by round.

    `low` and `high` are the ends of the median's interval of 95 % confidence.
    """

    median: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether one of the two is shown to take longer."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One of several models.

    Attributes:
        name: of its file.
        architecture: how its network is built, in words; None if that is not known.
        method: what compressed it; None if nothing did.
        params: the number of parameters.
        macs: multiply-accumulates of one sample; None where the network was not run.
        nbytes: the size of the file.
        max_relative_error: the largest error of a layer towards the first model's layers; None if
            the layers are not the first's.
        measured: the quality on the images.
        comparison: the answers beside those of the first model on the same images.
        latency: the time of a forward pass, in turns with all others.
        slowdown: that time as a multiple of the first model's.
    """

    name: str
    architecture: str | None
    method: str | None
    params: int
    macs: int | None
    nbytes: int | None
    max_relative_error: float | None
    measured: Measured | None = None
    comparison: Comparison | None = None
    latency: Latency | None = None
    slowdown: TimeRatio | None = None


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """Several models, the first of which is the reference; on so many images, on that device."""

    models: Sequence[ComparedModel]
    images: int | None = None
    device: str | None = None


def compare(options: CompareOptions) -> ModelComparison:
    """Compare models with the first of them.

    With images, each is judged beside the first on all of them, and all are timed in turns.

    Raises:
        OptionError: there are not two models, or two are to come from standard input.
        DataError: the data cannot be used, or not with one of the networks.
        AldsError: a model cannot be read.
    """
    models = list(options.models)
    if len(models) < 2:
        raise OptionError("there is nothing to compare it with", tip="name two models or more")
    if models.count("-") > 1:
        raise OptionError("only one model can come from standard input")
    networks = [open_network(model, options.source) for model in models]
    found = _sizes(networks)
    return ModelComparison(found) if options.data is None else _judged(found, networks, options)


def _sizes(networks: Sequence[Network]) -> list[ComparedModel]:
    reference = densified(networks[0])
    return [_compared(network, reference) for network in networks]


def _compared(network: Network, reference: Network) -> ComparedModel:
    plan = network.plan
    return ComparedModel(
        network.name,
        None if network.architecture is None else str(network.architecture),
        plan.method if plan.decomposed or plan.pruned else None,
        count_parameters(network.module),
        trace_network(network).macs,
        network.nbytes,
        _largest_error(network, reference),
    )


def _largest_error(network: Network, reference: Network) -> float | None:
    try:
        errors = layer_errors(reference.module, densified(network).module)
    except ArchitectureError:  # of a module whose dense form is not known
        return None
    return max(errors.values(), default=None)


def _judged(
    found: Sequence[ComparedModel], networks: Sequence[Network], options: CompareOptions
) -> ModelComparison:
    """Judge and time the networks on the images."""
    device = pick_device(options.device)
    prepared = settled_preprocessing(options.preprocessing, networks[0])
    assert options.data is not None  # noqa: S101 - asked before
    images = opened(options.data, split="test", download=options.download)
    shape = Batches(images, prepared, batch_size=1).input_shape
    require_moderate(options.latency_batch_size, shape)
    first, second, *others = networks
    asked = EvaluateOptions(
        second,
        images,
        baseline=first,
        preprocessing=prepared,
        batch_size=options.batch_size,
        latency=False,
        classes=options.classes,
        device=options.device,
        workers=options.workers,
        progress=options.progress,
    )
    results = evaluate_several(asked, others)
    seconds = _timed(networks, shape, options.latency_batch_size, device)
    qualities = [results[0].baseline, *(result.model for result in results)]
    comparisons = [None, *(result.comparison for result in results)]
    models = [
        replace(
            own,
            measured=measured,
            comparison=comparison,
            latency=as_latency(times, options.latency_batch_size, device),
            slowdown=None if number == 0 else _ratio(times, seconds[0]),
        )
        for number, (own, measured, comparison, times) in enumerate(
            zip(found, qualities, comparisons, seconds, strict=True)
        )
    ]
    return ModelComparison(models, len(images), device_name(device))


def _timed(
    networks: Sequence[Network], shape: tuple[int, ...], batch_size: int, device: torch.device
) -> list[FloatArray]:
    """Return the seconds of forward passes of all networks, in turns and in forms of one kind."""
    if any(network.inference is not None for network in networks):
        logger.warning("all models are timed in their fastest forms, as one of them is optimised")
        inputs = InputSpec.of_sample(shape)
        networks = [
            with_fastest_form(network, inputs, batch_size=batch_size, device=device)
            for network in networks
        ]
    modules: Mapping[str, torch.nn.Module] = {
        str(number): answering(network) for number, network in enumerate(networks)
    }
    return list(time_networks(modules, shape, batch_size=batch_size, device=device).values())


def _ratio(seconds: FloatArray, reference: FloatArray) -> TimeRatio:
    ratios = seconds / reference
    low, high = (median_at_least(ratios, confidence) for confidence in (0.975, 0.025))
    return TimeRatio(float(np.median(ratios)), low, high)
