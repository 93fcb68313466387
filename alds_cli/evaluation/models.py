"""Quality and footprint of a network, and of a baseline where one is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alds_cli.datasets import (
    Batches,
    opened,
    require_moderate,
)
from alds_cli.evaluation.measures import assigned, measure_latency, measure_quality
from alds_cli.network.networks import Network
from alds_cli.network.opening import (
    open_network,
    settled_preprocessing,
)
from alds_cli.options.evaluate_options import EvaluateOptions
from alds_cli.records import (
    ClassAssignment,
    Evaluation,
    Footprint,
    Latency,
    Preprocessing,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.runtime.devices import pick_device
from alds_cli.tracing.trace import count_parameters, trace


@dataclass(frozen=True, slots=True)
class Measured:
    """The quality of one network on the data, and its cost."""

    quality: Evaluation
    footprint: Footprint


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A measured network, and its baseline, measured under the same conditions, if any."""

    model: Measured
    baseline: Measured | None
    preprocessing: Preprocessing
    device: str
    assignment: ClassAssignment


def evaluate(options: EvaluateOptions) -> EvaluationResult:
    """Measure accuracy, loss, parameters, MACs, bytes and latency.

    Raises:
        DataError: the data cannot be used, or not with this network.
        AldsError: a model cannot be read.
    """
    place = pick_device(options.device)
    networks = {"evaluate": open_network(options.model, options.source)}
    if options.baseline is not None:
        networks["baseline"] = open_network(options.baseline, options.baseline_source)
    prepared = settled_preprocessing(options.preprocessing, networks["evaluate"])
    images = opened(options.data, split="test", download=options.download)
    for network in networks.values():
        network.module.to(place)
    images, assignment = assigned(
        images, prepared, networks["evaluate"].module, options.classes, device=place
    )
    batches = Batches(images, prepared, batch_size=options.batch_size, workers=options.workers)
    if options.latency:
        require_moderate(options.latency_batch_size, batches.input_shape)
    qualities = {
        task: measure_quality(
            network.module, batches, device=place, progress=_renamed(options.progress, task)
        )
        for task, network in networks.items()
    }
    times = (
        measure_latency(
            {task: network.module for task, network in networks.items()},
            batches.input_shape,
            batch_size=options.latency_batch_size,
            device=place,
        )
        if options.latency
        else {}
    )
    measured = {
        task: Measured(qualities[task], _footprint(network, batches.input_shape, times.get(task)))
        for task, network in networks.items()
    }
    return EvaluationResult(
        measured["evaluate"], measured.get("baseline"), prepared, _device_name(place), assignment
    )


def _footprint(
    network: Network, input_shape: tuple[int, ...], latency: Latency | None
) -> Footprint:
    macs = trace(network.module, input_shape).macs
    return Footprint(count_parameters(network.module), macs, network.nbytes, latency)


def _renamed(progress: ProgressCallback | None, task: str) -> ProgressCallback | None:
    if progress is None:
        return None

    def forward(event: ProgressEvent) -> None:
        progress(ProgressEvent(task, event.done, event.total, event.figures))

    return forward


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
