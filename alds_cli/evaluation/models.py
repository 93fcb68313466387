"""Quality and footprint of a network, beside another one if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alds_cli.datasets import (
    Batches,
    LabelledImages,
    opened,
    require_moderate,
)
from alds_cli.evaluation.measures import assigned, measure_latency, measure_quality
from alds_cli.network.loading import Network
from alds_cli.network.opening import (
    AS_IT_IS,
    Model,
    Preparation,
    Source,
    open_network,
    settled_preprocessing,
)
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
    """One network: its quality on the data and what it costs."""

    quality: Evaluation
    footprint: Footprint


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A network measured, and perhaps another one beside it under the same conditions."""

    model: Measured
    baseline: Measured | None
    preprocessing: Preprocessing
    device: str
    assignment: ClassAssignment


def evaluate(
    model: Model,
    data: str | LabelledImages,
    source: Source = AS_IT_IS,
    *,
    baseline: Model | None = None,
    baseline_source: Source = AS_IT_IS,
    preprocessing: Preparation = None,
    classes: Sequence[str] | str | Path | None = None,
    download: bool = False,
    batch_size: int = 256,
    workers: int = 0,
    latency: bool = True,
    latency_batch_size: int = 1,
    device: str | None = None,
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Measure accuracy, loss, parameters, MACs, bytes and latency.

    Args:
        model: the network.
        data: labelled images, or a spec such as `tensors:FILE`.
        source: how to read the model's file.
        baseline: a network to set beside it, on the same images, prepared the same way.
        baseline_source: how to read the baseline's file.
        preprocessing: from an image to the input, or a function that changes what the
            model's file says; None is what that says.
        classes: the network's classes in order, by the names of the image folders; or a file
            with one of them a line. None recognises those of published data sets.
        download: fetch a published set that is not there.
        batch_size: images in a forward pass.
        workers: threads that decode image files.
        latency: time forward passes too; both networks take turns.
        latency_batch_size: samples in a timed forward pass.
        device: where to compute; None is CUDA where present.
        progress: told how far it is; tasks `evaluate` and `baseline`.

    Raises:
        DataError: the data cannot be used, or not with this network.
        AldsError: a model cannot be read.
    """
    place = pick_device(device)
    networks = {"evaluate": open_network(model, source)}
    if baseline is not None:
        networks["baseline"] = open_network(baseline, baseline_source)
    prepared = settled_preprocessing(preprocessing, networks["evaluate"])
    images = opened(data, split="test", download=download)
    for network in networks.values():
        network.module.to(place)
    images, assignment = assigned(
        images, prepared, networks["evaluate"].module, classes, device=place
    )
    batches = Batches(images, prepared, batch_size=batch_size, workers=workers)
    if latency:
        require_moderate(latency_batch_size, batches.input_shape)
    qualities = {
        task: measure_quality(
            network.module, batches, device=place, progress=_renamed(progress, task)
        )
        for task, network in networks.items()
    }
    times = (
        measure_latency(
            {task: network.module for task, network in networks.items()},
            batches.input_shape,
            batch_size=latency_batch_size,
            device=place,
        )
        if latency
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
