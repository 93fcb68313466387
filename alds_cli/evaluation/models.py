"""Quality and footprint of a network, and of a baseline where one is given."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from alds_cli.datasets import (
    Batches,
    LabelledImages,
    MaskedImages,
    Reading,
    Samples,
    TokenBatches,
    TokenBlocks,
    opened_samples,
    require_moderate,
)
from alds_cli.errors import DataError, OptionError
from alds_cli.evaluation.gates import Bounds
from alds_cli.evaluation.image_answers import Answered, answers_of
from alds_cli.evaluation.language import measure_texts
from alds_cli.evaluation.measures import assigned, count_classes
from alds_cli.evaluation.paired import Drop, answers_drop, compared
from alds_cli.evaluation.segmentation import count_masks, masked_batches
from alds_cli.inputs import InputSpec
from alds_cli.latency.fastest_form import with_fastest_form
from alds_cli.network.networks import Network
from alds_cli.network.opening import (
    answering,
    open_network,
    preparation_of,
)
from alds_cli.options.evaluate_options import EvaluateOptions
from alds_cli.records import (
    ClassAssignment,
    Comparison,
    Evaluation,
    FloatArray,
    Footprint,
    Gate,
    Language,
    Preprocessing,
    ProgressCallback,
    ProgressEvent,
    Segmentation,
)
from alds_cli.runtime.devices import as_latency, time_networks
from alds_cli.runtime.distributed import ALONE, joined, world
from alds_cli.tracing.trace import count_parameters, trace

logger = logging.getLogger(__name__)

_MODEL, _BASELINE = "evaluate", "baseline"
"""The tasks of a network and of its baseline; those of further networks add a number."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The quality of one network on the data, and its cost.

    Attributes:
        quality: None where the images have no labels.
        top1_interval: the ends of the 95 % confidence interval of top-1, in per cent.
        segmentation: the quality where they have masks.
        language: how well the network foretells texts, where it does.
        footprint: parameters, MACs, bytes and time.
    """

    quality: Evaluation | None
    top1_interval: tuple[float, float] | None
    segmentation: Segmentation | None
    language: Language | None
    footprint: Footprint


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A measured network, and its baseline, measured under the same conditions, if any.

    Attributes:
        model: the network.
        baseline: the other network.
        comparison: their answers on the same images.
        images: the number of images, or of texts.
        preprocessing: how images were prepared, for both; None for texts.
        device: the name of what both ran on.
        assignment: how labels were found.
        gates: the bounds that were asked for, and whether the network keeps them.
    """

    model: Measured
    baseline: Measured | None
    comparison: Comparison | None
    images: int
    preprocessing: Preprocessing | None
    device: str
    assignment: ClassAssignment
    gates: tuple[Gate, ...] = ()


def evaluate(options: EvaluateOptions) -> EvaluationResult:
    """Measure accuracy, loss, parameters, MACs, bytes and latency.

    Images without labels tell how often the network agrees with a baseline. Images with masks tell
    the accuracy of the pixels and the mean IoU, and texts the perplexity. The processes of a job
    share the images of every batch, and find the same; the first alone measures times and judges
    gates. A gate that fails is no error here: `EvaluationResult.gates` tells.

    Raises:
        DataError: the data cannot be used, or not with this network, or they have no labels and
            there is no baseline.
        OptionError: classes are named for images that have no class folders, or a bound makes no
            sense.
        AldsError: a model cannot be read.
    """
    return evaluate_several(options)[0]


def evaluate_several(
    options: EvaluateOptions, others: Sequence[Network] = ()
) -> list[EvaluationResult]:
    """Measure a network, and others as it, beside one baseline, which answers once.

    Classes are numbered as the first network does.

    Args:
        options: name the first network and the baseline, whose bounds concern the first.
        others: further networks; only on images.

    Raises:
        AldsError: as `evaluate`.
    """
    with joined(options.device) as place:
        return _evaluated(options, others, place)


def _opened(options: EvaluateOptions, others: Sequence[Network]) -> dict[str, Network]:
    """Return the networks by their tasks, the baseline last."""
    networks = {_MODEL: open_network(options.model, options.source)}
    for number, other in enumerate(others, start=1):
        networks[f"{_MODEL} {number}"] = open_network(other)
    if options.baseline is not None:
        networks[_BASELINE] = open_network(options.baseline, options.baseline_source)
    return networks


def _evaluated(
    options: EvaluateOptions, others: Sequence[Network], place: torch.device
) -> list[EvaluationResult]:
    bounds = Bounds.of(options)
    networks = _opened(options, others)
    samples = _samples(options, networks[_MODEL])
    bounds.require_told_by(samples)
    prepared = preparation_of(samples, options.preprocessing, networks[_MODEL])
    for network in networks.values():
        network.module.to(place)
    inputs = _inputs(samples, prepared, options.latency_batch_size if options.latency else 1)
    costs = {task: _footprint(network, inputs) for task, network in networks.items()}
    bounds.require_known(costs[_MODEL])
    if options.latency:  # after what may be refused, since it takes seconds
        _treat_alike(networks, inputs, options.latency_batch_size, place)
    for network in networks.values():
        network.module = answering(network)
    run = _Run(networks, options, prepared, place)
    found = run.on(samples)
    seconds = run.timed(inputs) if options.latency and world().first else {}
    for task, own in seconds.items():
        latency = as_latency(own, options.latency_batch_size, place)
        costs[task] = replace(costs[task], latency=latency)
    measured = {task: Measured(*found.qualities[task], costs[task]) for task in networks}
    gates: tuple[Gate, ...] = ()
    if world().first:
        gates = bounds.judged(costs[_MODEL], seconds.get(_MODEL), *found.drop)
    return [
        EvaluationResult(
            own,
            measured.get(_BASELINE),
            found.comparisons.get(task),
            len(samples),
            prepared,
            _device_name(place),
            found.assignment,
            gates if task == _MODEL else (),
        )
        for task, own in measured.items()
        if task != _BASELINE
    ]


def _samples(options: EvaluateOptions, network: Network) -> Samples:
    """Return the images or texts."""
    reading = Reading.of(options, network.inputs)
    return opened_samples(options.data, reading, split="test", download=options.download)


def _inputs(samples: Samples, prepared: Preprocessing | None, batch_size: int) -> InputSpec:
    """Return what a network is called with for one sample, of which as many have to fit."""
    if prepared is None or isinstance(samples, TokenBlocks):
        return samples.inputs  # type: ignore[union-attr]
    shape = Batches(samples, prepared, batch_size=1).input_shape
    require_moderate(batch_size, shape)
    return InputSpec.of_sample(shape)


def _treat_alike(
    networks: Mapping[str, Network], inputs: InputSpec, batch_size: int, place: torch.device
) -> None:
    """Time a baseline in its fastest form too, if the network is timed in its own."""
    baseline = networks.get(_BASELINE)
    optimised = networks[_MODEL].inference is not None
    if baseline is None or not optimised or baseline.inference is not None or world() != ALONE:
        return
    alike = with_fastest_form(baseline, inputs, batch_size=batch_size, device=place)
    baseline.inference = alike.inference
    logger.warning("the baseline is run in its fastest form too, as the network is")


_Quality = tuple[
    Evaluation | None, tuple[float, float] | None, Segmentation | None, Language | None
]
"""The fields of `Measured` that samples tell."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What samples tell of networks, by task: their quality, how they compare, and the labels.

    `drop` is what may fall, a key of `DROP_MEASURES`, and how far it does below the baseline's; of
    a loss, how far it rises.
    """

    qualities: Mapping[str, _Quality]
    comparisons: Mapping[str, Comparison]
    drop: tuple[str, Drop | None]
    assignment: ClassAssignment


@dataclass(frozen=True, slots=True)
class _Run:
    """The networks to evaluate by task, what was asked, and where they are."""

    networks: Mapping[str, Network]
    options: EvaluateOptions
    prepared: Preprocessing | None
    place: torch.device

    def timed(self, inputs: InputSpec) -> dict[str, FloatArray]:
        """Return the seconds of forward passes of the networks, in turns."""
        return time_networks(
            {task: network.module for task, network in self.networks.items()},
            inputs,
            batch_size=self.options.latency_batch_size,
            device=self.place,
        )

    def on(self, samples: Samples) -> _Found:
        """Evaluate on samples of any kind."""
        if isinstance(samples, TokenBlocks):
            return self._on_texts(samples)
        assert self.prepared is not None  # noqa: S101 - images come with it
        if isinstance(samples, MaskedImages):
            return self._on_masks(samples, self.prepared)
        return self._on_images(samples, self.prepared)

    def _on_texts(self, texts: TokenBlocks) -> _Found:
        modules = {task: network.module for task, network in self.networks.items()}
        batches = TokenBatches(texts, batch_size=self.options.batch_size)
        found = measure_texts(
            modules,
            batches,
            device=self.place,
            progress=self.options.progress,
            foretelling=self.options.max_loss_rise is not None,
        )
        qualities: dict[str, _Quality] = {
            task: (None, None, None, own) for task, own in found.qualities.items()
        }
        comparisons = {} if found.comparison is None else {_MODEL: found.comparison}
        return _Found(qualities, comparisons, ("loss", found.rise), ClassAssignment())

    def _on_masks(self, images: MaskedImages, prepared: Preprocessing) -> _Found:
        if self.options.classes is not None:
            raise OptionError(
                f"{images.name} has masks, but names of classes are given",
                tip="leave out --classes; the numbers in masks are the classes' numbers",
            )
        batches = masked_batches(
            images,
            prepared,
            most=self.options.batch_size,
            workers=self.options.workers,
            world=world(),
        )
        modules = {task: network.module for task, network in self.networks.items()}
        counted = count_masks(modules, batches, device=self.place, progress=self.options.progress)
        qualities: dict[str, _Quality] = {
            task: (None, None, own.quality(), None) for task, own in counted.tallies.items()
        }
        found = counted.comparisons()
        comparisons = {task: comparison for task, (comparison, _) in found.items()}
        drop = found[_MODEL][1] if found else None
        return _Found(qualities, comparisons, ("miou", drop), ClassAssignment())

    def _on_images(self, images: LabelledImages, prepared: Preprocessing) -> _Found:
        images, assignment = _with_classes(
            images, prepared, self.networks, self.options, self.place
        )
        batches = Batches(
            images,
            prepared,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            world=world(),
        )
        found = {
            task: answers_of(
                network.module, batches, self.place, _renamed(self.options.progress, task)
            )
            for task, network in self.networks.items()
        }
        qualities: dict[str, _Quality] = {
            task: (own.quality, own.interval(images.labels), None, None)
            for task, own in found.items()
        }
        return _Found(qualities, *_compared(found, images), assignment)


def _with_classes(
    images: LabelledImages,
    prepared: Preprocessing,
    networks: Mapping[str, Network],
    options: EvaluateOptions,
    place: torch.device,
) -> tuple[LabelledImages, ClassAssignment]:
    """Number the images' classes as the network does; without labels there is nothing to number."""
    if images.labelled:
        module = networks[_MODEL].module
        return assigned(images, prepared, module, options.classes, device=place)
    if options.baseline is None:
        raise DataError(
            f"{images.name} has no labels",
            tip="store integer 'labels' beside 'images', or lay images out as DIR/CLASS/IMAGE.jpg; "
            "--baseline MODEL compares the answers of two networks, which needs no labels",
        )
    if options.classes is not None:
        raise OptionError(
            f"{images.name} has no labels, but names of classes are given",
            tip="leave out --classes",
        )
    shape = Batches(images, prepared, batch_size=1).input_shape
    classes = [count_classes(network.module, shape, device=place) for network in networks.values()]
    others = [own for own in classes if own != classes[-1]]
    if others:
        raise DataError(
            f"the network tells {others[0]:,} classes apart and the baseline {classes[-1]:,}, so "
            "that their answers cannot be compared",
            tip="name a baseline that was trained for the same task",
        )
    return images, ClassAssignment()


def _compared(
    found: Mapping[str, Answered], images: LabelledImages
) -> tuple[dict[str, Comparison], tuple[str, Drop | None]]:
    """Return how answers compare with the baseline's, and what may drop and how far it does."""
    labels = images.labels if images.labelled else None
    of = "agreement" if labels is None else "top1"
    if _BASELINE not in found:
        return {}, (of, None)
    given = {task: own.classes for task, own in found.items()}
    baseline = given.pop(_BASELINE)
    comparisons = {task: compared(own, baseline, labels) for task, own in given.items()}
    return comparisons, (of, answers_drop(given[_MODEL], baseline, labels))


def _footprint(network: Network, inputs: InputSpec) -> Footprint:
    macs = trace(network.module, inputs).macs
    return Footprint(count_parameters(network.module), macs, network.nbytes, None)


def _renamed(progress: ProgressCallback | None, task: str) -> ProgressCallback | None:
    if progress is None:
        return None

    def forward(event: ProgressEvent) -> None:
        progress(ProgressEvent(task.partition(" ")[0], event.done, event.total, event.figures))

    return forward


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
