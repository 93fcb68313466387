"""What a training makes small: the loss on labels, and the distance from a teacher.

Sources: Szegedy et al., CVPR 2016 (label smoothing); Hinton, Vinyals, Dean, arXiv 1503.02531
(distillation); Beyer et al., CVPR 2022 (the teacher sees the same augmented and mixed images).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.datasets import check_labels
from alds_cli.errors import DataError
from alds_cli.options.training_options import RetrainSettings
from alds_cli.retraining.distillation import divergence
from alds_cli.runtime.devices import accepted
from alds_cli.tracing.logits import logits_of
from alds_cli.tracing.trace import floating_type


@dataclass(frozen=True, slots=True)
class MixedBatch:
    """A batch as the network sees it.

    Attributes:
        inputs: (n, C, H, W).
        labels: (n,), on the device where the network computes.
        share: the share of each image that is its own; the rest is its neighbour's.
    """

    inputs: Tensor
    labels: Tensor
    share: float


class Objective:
    """The loss of a run.

    Args:
        settings: the hyperparameters.
        teacher: the network to learn from, in evaluation mode where the run computes; None learns
            from labels alone.
        labelled: whether the images have labels.
    """

    def __init__(
        self, settings: RetrainSettings, teacher: nn.Module | None, *, labelled: bool
    ) -> None:
        self._settings = settings
        self._teacher = teacher
        self._weight = 1.0 if teacher is None else settings.label_weight
        self._labelled = labelled

    def __call__(self, logits: Tensor, batch: MixedBatch) -> tuple[Tensor, Tensor]:
        """Return the mean loss of logits (n, classes), and whether each is right, (n,).

        Right is what agrees with the label, or with the teacher where there are no labels.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        answers = logits.detach().argmax(dim=1)
        expected = None if self._teacher is None else self._expected(batch.inputs, logits)
        loss = logits.new_zeros(())
        if self._labelled:
            check_labels(batch.labels, logits.shape[1])
        if self._weight > 0:
            loss = self._weight * self._on_labels(logits, batch)
        if expected is not None and self._weight < 1:
            distance = divergence(logits, expected, self._settings.temperature)
            loss = loss + (1 - self._weight) * distance
        if self._labelled or expected is None:
            return loss, answers == batch.labels
        return loss, answers == expected.argmax(dim=1)

    def judged(self, logits: Tensor, batch: MixedBatch) -> tuple[float, int]:
        """Return the summed loss of a batch without mixing or smoothing, and how many are right.

        The loss is that on labels, or the distance from the teacher where there are none.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        answers = logits.argmax(dim=1)
        if self._labelled:
            check_labels(batch.labels, logits.shape[1])
            loss = F.cross_entropy(logits, batch.labels, reduction="sum")
            return loss.item(), int((answers == batch.labels).sum())
        expected = self._expected(batch.inputs, logits)
        loss = divergence(logits, expected, self._settings.temperature) * len(logits)
        return loss.item(), int((answers == expected.argmax(dim=1)).sum())

    def _on_labels(self, logits: Tensor, batch: MixedBatch) -> Tensor:
        smoothing = self._settings.label_smoothing
        own = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        if batch.share == 1:
            return own
        others = F.cross_entropy(logits, batch.labels.roll(1, 0), label_smoothing=smoothing)
        return batch.share * own + (1 - batch.share) * others

    def _expected(self, inputs: Tensor, logits: Tensor) -> Tensor:
        assert self._teacher is not None  # noqa: S101 - asked for only where there is one
        with torch.no_grad():
            output = accepted(self._teacher, inputs.to(floating_type(self._teacher)))
        expected = logits_of(output, len(inputs), "teachers")
        if expected.shape != logits.shape:
            raise DataError(
                f"the teacher gives {expected.shape[1]} logits, the network {logits.shape[1]}",
                tip="name a --teacher with the same classes",
            )
        return expected if expected.dtype == torch.float64 else expected.float()
