"""Measurement of a network's quality and speed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.datasets import (
    Batch,
    Batches,
    LabelledImages,
    assign_classes,
    check_labels,
    read_classes,
    tell,
)
from alds_cli.errors import DataError
from alds_cli.records import (
    ClassAssignment,
    Evaluation,
    Latency,
    Preprocessing,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.runtime.devices import accepted, as_latency, pick_device, ready, time_networks
from alds_cli.runtime.distributed import ALONE, gathered
from alds_cli.tracing.logits import logits_of
from alds_cli.tracing.tokens import Inputs

_log = logging.getLogger(__name__)


_UNDEFINED = -1
"""In place of a class where a NaN is among the logits."""


def _answered(logits: Tensor) -> Tensor:
    """Return the classes (n,) of logits (n, classes)."""
    # argmax would take NaN for the largest logit, which could be right by accident.
    return logits.argmax(dim=1).where(~logits.isnan().any(dim=1), _UNDEFINED)


@dataclass(slots=True)
class _Tally:
    """Sums over the images seen so far."""

    images: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0
    undefined: int = 0
    classes: int = 0

    def add(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count a batch, and return the answers (n,).

        Args:
            logits: (n, classes) in float64 on the CPU.
            labels: (n,) on the CPU.
        """
        self.classes = logits.shape[1]
        check_labels(labels, self.classes)
        answered = _answered(logits)
        defined = answered != _UNDEFINED
        self.images += len(labels)
        self.undefined += int((~defined).sum())
        self.top1 += int((answered == labels).sum())
        best = logits.topk(min(5, self.classes), dim=1).indices
        self.top5 += int(((best == labels[:, None]).any(dim=1) & defined).sum())
        self.loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        return answered

    def evaluation(self) -> Evaluation:
        """Return the sums as percentages and a mean."""
        return Evaluation(
            top1=100 * self.top1 / self.images,
            top5=100 * self.top5 / self.images if self.classes > 5 else None,
            loss=self.loss / self.images,
            images=self.images,
        )


def measure_quality(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Return top-1, top-5 and mean cross-entropy of a network on labelled images.

    The network is left as it was: a copy is made where it has to be moved to `device`, or where it
    is in half precision and `device` is the CPU, which then computes in float32. An image whose
    logits contain a NaN counts as wrong, and the loss becomes NaN.

    Args:
        module: a network from (n, C, H, W) to logits (n, classes).
        batches: inputs and labels, usually `alds_cli.datasets.Batches`.
        device: where to compute; None means `pick_device()`.
        progress: called after each batch with the task "evaluate", counting batches.

    Raises:
        DataError: there are no images, the network does not take them, it does not give one row
            of logits for each, or a label is outside its classes.
    """
    return quality_and_answers(module, batches, device=device, progress=progress)[0]


def quality_and_answers(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[Evaluation, Tensor]:
    """Return what `measure_quality` does, and the class (n,) of each image as `answers` does.

    Args:
        module: a network from (n, C, H, W) to logits (n, classes); left as it was.
        batches: inputs and labels, usually `alds_cli.datasets.Batches`.
        device: where to compute; None means `pick_device()`.
        progress: called after each batch with the task "evaluate", counting batches.

    Raises:
        DataError: as `measure_quality` does.
    """
    tally = _Tally()
    found = []

    def add(logits: Tensor, labels: Tensor) -> Mapping[str, float]:
        found.append(tally.add(logits, labels))
        so_far = tally.evaluation()
        return {"top1": so_far.top1, "loss": so_far.loss}

    _each_batch(module, batches, add, device, progress)
    if tally.images == 0:
        raise DataError("there are no images to evaluate", tip="name a set with images")
    if tally.undefined:
        _log.warning(
            "the network's output is NaN on %d of %d images; they count as wrong",
            tally.undefined,
            tally.images,
        )
    return tally.evaluation(), torch.cat(found)


def answers(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return the class (n,) that a network gives each image, -1 where its output has a NaN.

    Args:
        module: a network from (n, C, H, W) to logits (n, classes); left as it was.
        batches: inputs and labels, usually `alds_cli.datasets.Batches`.
        device: where to compute; None means `pick_device()`.
        progress: called after each batch with the task "evaluate", counting batches.

    Raises:
        DataError: the network does not take the images, or does not give one row of logits each.
    """
    return _of_all(module, batches, _answered, device, progress)


def all_logits(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return the logits (n, classes) that a network gives all images, in float64 on the CPU.

    Args:
        module: a network from (n, C, H, W) to logits (n, classes); left as it was.
        batches: inputs and labels, usually `alds_cli.datasets.Batches`.
        device: where to compute; None means `pick_device()`.
        progress: called after each batch with the task "evaluate", counting batches.

    Raises:
        NoLogitsError: it does not give one row of logits for each image.
        DataError: it does not take the images.
    """
    return _of_all(module, batches, lambda logits: logits, device, progress)


def _of_all(
    module: nn.Module,
    batches: Iterable[Batch],
    keep: Callable[[Tensor], Tensor],
    device: torch.device | None,
    progress: ProgressCallback | None,
) -> Tensor:
    """Return what `keep` makes of the logits of every batch, one after another."""
    found = []

    def add(logits: Tensor, _: Tensor) -> Mapping[str, float]:
        found.append(keep(logits))
        return {}

    _each_batch(module, batches, add, device, progress)
    return torch.cat(found)


def agreement(expected: Tensor, found: Tensor) -> float:
    """Return for how many images two logits (n, classes) give the same class, in per cent."""
    return 100 * float((_answered(expected) == _answered(found)).double().mean())


def divergences(expected: Tensor, found: Tensor) -> Tensor:
    """Return how far a network's answers are from expected ones.

    Args:
        expected: the logits (n, classes) of the network that is to be matched.
        found: those of the other.

    Returns:
        KL(expected ‖ found) between the probabilities of the classes for every image, (n,), in
        nats; infinite where logits are not finite.
    """
    logs, others = expected.log_softmax(dim=1), found.log_softmax(dim=1)
    apart = F.kl_div(others, logs, reduction="none", log_target=True).sum(dim=1)
    return apart.clamp(min=0).nan_to_num(nan=math.inf, posinf=math.inf)


def _each_batch(
    module: nn.Module,
    batches: Iterable[Batch],
    add: Callable[[Tensor, Tensor], Mapping[str, float]],
    device: torch.device | None,
    progress: ProgressCallback | None,
) -> None:
    """Give each batch's logits and labels to `add`, and the figures that it returns to progress."""
    total = length_hint(batches)
    with ready(module, device or pick_device()) as run, torch.inference_mode():
        for done, (inputs, labels) in enumerate(batches, start=1):
            logits = _logits(run, inputs, len(labels)) if len(labels) else None
            figures = add(*_of_whole_batch(batches, logits, labels))
            if progress is not None:
                progress(ProgressEvent("evaluate", done, total, figures))


def _of_whole_batch(
    batches: Iterable[Batch], logits: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits and labels of all images of a batch, of which each process has some."""
    if logits is None or (isinstance(batches, Batches) and batches.world != ALONE):
        parts = gathered((logits, labels))
        found = [own for own, _ in parts if own is not None]
        return torch.cat(found), torch.cat([own for _, own in parts])
    return logits, labels


def _logits(run: Callable[[Inputs], object], inputs: Inputs, labels: int) -> Tensor:
    """Return the network's output (n, classes) in float64 on the CPU."""
    logits = logits_of(accepted(run, inputs), labels, "evaluated")
    return logits.cpu().to(torch.float64)  # not every device supports float64


def count_classes(
    module: nn.Module, input_shape: tuple[int, ...], *, device: torch.device | None = None
) -> int:
    """Return how many classes a network tells apart: its number of logits for one black image.

    Args:
        module: a network from (n, C, H, W) to logits (n, classes); left as it was.
        input_shape: (C, H, W).
        device: where to compute; None means `pick_device()`.

    Raises:
        DataError: the network does not take such an image, or gives no logits.
    """
    with ready(module, device or pick_device()) as run, torch.inference_mode():
        return _logits(run, torch.zeros(1, *input_shape), 1).shape[1]


def measure_latency(
    modules: Mapping[str, nn.Module],
    input_shape: tuple[int, ...],
    *,
    batch_size: int = 1,
    device: torch.device | None = None,
    runs: int | None = None,
    warmup: int = 3,
) -> dict[str, Latency]:
    """Return the time of one forward pass of each network, measured in turns (A B A B …).

    In turns, all networks see the same clock speed and the same neighbours, so that the medians
    are comparable. The networks are left as they were.

    Args:
        modules: networks by name.
        input_shape: the shape of one sample, e.g. (3, 224, 224).
        batch_size: samples in one forward pass.
        device: where to compute; None means `pick_device()`.
        runs: timed passes of each network; None takes as many as fit into two seconds per
            network, at least 10 and at most 1000.
        warmup: untimed passes of each network before those.

    Raises:
        OptionError: a number makes no sense.
        DataError: a network does not take inputs of this shape.
    """
    device = device or pick_device()
    seconds = time_networks(
        modules, input_shape, batch_size=batch_size, device=device, runs=runs, warmup=warmup
    )
    return {name: as_latency(values, batch_size, device) for name, values in seconds.items()}


def assigned(
    images: LabelledImages,
    preprocessing: Preprocessing,
    module: nn.Module,
    classes: Sequence[str] | str | Path | None,
    *,
    device: torch.device | None = None,
) -> tuple[LabelledImages, ClassAssignment]:
    """Number the images' classes as the network does, before any other work is done.

    Args:
        images: the images.
        preprocessing: how an image becomes the network's input.
        module: the network.
        classes: the names of its classes in order, a file with one name per line, or None.
        device: where the network is run to count its outputs.

    Returns:
        The images, and how their labels were found; a warning about this has been logged.

    Raises:
        DataError: the classes and the network do not go together; see `assign_classes`.
        OptionError: names are given for a set that has no class folders.
    """
    listed = read_classes(classes) if isinstance(classes, str | Path) else classes
    shape = Batches(images, preprocessing, batch_size=1).input_shape
    outputs = count_classes(module, shape, device=device)
    images, assignment = assign_classes(images, outputs, listed)
    check_labels(images.labels, outputs)
    tell(assignment)
    return images, assignment
