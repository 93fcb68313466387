"""What a training on images makes small: the loss on labels, and the distance from a teacher.

Sources: Szegedy et al., CVPR 2016 (label smoothing); Hinton, Vinyals, Dean, arXiv 1503.02531
(distillation); Beyer et al., CVPR 2022 (the teacher sees the same augmented and mixed images).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.datasets import IGNORED, check_labels
from alds_cli.errors import DataError
from alds_cli.evaluation.segmentation import check_masks, mask_loss
from alds_cli.options.training_options import RetrainSettings
from alds_cli.retraining.mixing import those_before
from alds_cli.runtime.devices import accepted
from alds_cli.tracing.logits import logits_of, mask_logits_of
from alds_cli.tracing.tokens import Inputs, call
from alds_cli.tracing.trace import floating_type


@dataclass(frozen=True, slots=True)
class MixedBatch:
    """A batch as the network sees it.

    Attributes:
        inputs: images (n, C, H, W), or texts.
        labels: (n,), or masks (n, H, W) for networks that segment; on the device where the network
            computes. Texts have none but their own tokens.
        share: the share of each image that is its own; the rest is its neighbour's.
    """

    inputs: Inputs
    labels: Tensor
    share: float = 1.0

    @property
    def counted(self) -> int:
        """The number of labels that the mean loss is over: of masks, the pixels with a class."""
        return int((self.labels != IGNORED).sum()) if self.masked else len(self.labels)

    @property
    def masked(self) -> bool:
        """Whether the labels are masks."""
        return self.labels.ndim == 3


class RunObjective(Protocol):
    """What a run makes small, on samples of one kind."""

    @property
    def rights(self) -> bool:
        """Whether what a network answers can be right."""
        ...

    def __call__(self, output: object, batch: MixedBatch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of an output, and how many of each sample's answers are right."""
        ...

    def judged(self, output: object, batch: MixedBatch) -> tuple[Tensor, Tensor]:
        """Return the same as it counts for samples held back."""
        ...

    def counted(self, batch: MixedBatch) -> int:
        """Return the number of answers that the mean loss is over."""
        ...


class Objective:
    """The loss of a run on images.

    Args:
        settings: the hyperparameters.
        teacher: the network to learn from, in evaluation mode where the run computes; None learns
            from labels alone.
        labelled: whether the images have labels or masks.
    """

    def __init__(
        self, settings: RetrainSettings, teacher: nn.Module | None, *, labelled: bool
    ) -> None:
        self._settings = settings
        self._teacher = teacher
        self._weight = 1.0 if teacher is None else settings.label_weight
        self._labelled = labelled
        self.rights = True

    def __call__(self, output: object, batch: MixedBatch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a network's output, and how much of each image is right, (n,).

        Right is what agrees with the label, or with the teacher where there are no labels: images,
        or of a mask the pixels that have a class.

        Raises:
            DataError: there are no logits in it, or others than the labels or the teacher need.
        """
        logits = _logits(output, batch, "retrained")
        self._check(logits, batch)
        expected = None if self._teacher is None else self._expected(logits, batch)
        loss = logits.new_zeros(())
        if self._weight > 0:
            loss = self._weight * self._on_labels(logits, batch)
        if expected is not None and self._weight < 1:
            loss = loss + (1 - self._weight) * self._distance(logits, expected)
        return loss, self._right(logits.detach(), batch, expected)

    def judged(self, output: object, batch: MixedBatch) -> tuple[Tensor, Tensor]:
        """Return the same without mixing or smoothing, on labels alone where there are any."""
        logits = _logits(output, batch, "retrained")
        self._check(logits, batch)
        if self._labelled:
            return _cross_entropy(logits, batch.labels), self._right(logits, batch, None)
        expected = self._expected(logits, batch)
        return self._distance(logits, expected), self._right(logits, batch, expected)

    def counted(self, batch: MixedBatch) -> int:
        """Return the number of answers that the mean loss is over."""
        return batch.counted

    def _check(self, logits: Tensor, batch: MixedBatch) -> None:
        if self._labelled:
            (check_masks if batch.masked else check_labels)(batch.labels, logits.shape[1])

    def _on_labels(self, logits: Tensor, batch: MixedBatch) -> Tensor:
        smoothing = self._settings.label_smoothing
        own = _cross_entropy(logits, batch.labels, smoothing)
        if batch.share == 1:
            return own
        others = _cross_entropy(logits, those_before(batch.labels), smoothing)
        return batch.share * own + (1 - batch.share) * others

    def _distance(self, logits: Tensor, expected: Tensor) -> Tensor:
        """Return the mean divergence from the teacher over all images, or all of their pixels."""
        ours, theirs = (own.movedim(1, -1).flatten(0, -2) for own in (logits, expected))
        return divergence(ours, theirs, self._settings.temperature)

    def _right(self, logits: Tensor, batch: MixedBatch, expected: Tensor | None) -> Tensor:
        answers = logits.argmax(dim=1)
        if self._labelled or expected is None:
            right = answers == batch.labels
        else:
            right = answers == expected.argmax(dim=1)
        if not batch.masked:
            return right.float()
        return (right & (batch.labels != IGNORED)).flatten(1).sum(1).float()

    def _expected(self, logits: Tensor, batch: MixedBatch) -> Tensor:
        assert self._teacher is not None  # noqa: S101 - asked for only where there is one
        expected = _logits(answer_of(self._teacher, batch.inputs), batch, "teachers")
        if expected.shape != logits.shape:
            raise other_teacher(f"{expected.shape[1]} logits", f"{logits.shape[1]}", "classes")
        return expected


def answer_of(teacher: nn.Module, inputs: Inputs) -> object:
    """Return what a teacher gives for a batch that lies where it computes."""
    device, dtype = next(teacher.parameters()).device, floating_type(teacher)
    with torch.no_grad():
        return accepted(lambda own: call(teacher, own, device, dtype), inputs)


def other_teacher(theirs: str, ours: str, same: str) -> DataError:
    """Return an error that tells that a teacher's answers are not of the network's form."""
    return DataError(
        f"the teacher gives {theirs}, the network {ours}",
        tip=f"name a --teacher with the same {same}",
    )


def _logits(output: object, batch: MixedBatch, purpose: str) -> Tensor:
    """Return logits (n, classes), or (n, classes, H, W) for masks, in float32 at least."""
    if batch.masked:
        logits = mask_logits_of(output, batch.labels.shape, purpose)
    else:
        logits = logits_of(output, len(batch.inputs), purpose)
    return logits if logits.dtype == torch.float64 else logits.float()


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    if labels.ndim == 3:
        return mask_loss(logits, labels, smoothing)
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def divergence(logits: Tensor, expected: Tensor, temperature: float) -> Tensor:
    """Return the mean Kullback-Leibler divergence of logits (n, classes), times T²; 0 of none.

    The factor keeps the size of gradients as the temperature T changes.
    """
    ours, theirs = (F.log_softmax(own / temperature, dim=1) for own in (logits, expected))
    total = F.kl_div(ours, theirs, log_target=True, reduction="sum")
    return temperature**2 * total / max(1, len(logits))
