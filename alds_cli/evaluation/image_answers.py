"""What a network answers on images, and how good that is where they have labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alds_cli.datasets import Batches
from alds_cli.evaluation.measures import answers, quality_and_answers
from alds_cli.evaluation.paired import wilson_interval
from alds_cli.records import Evaluation, ProgressCallback


@dataclass(frozen=True, slots=True)
class Answered:
    """A network's quality, where it is known, and the class (n,) that it gives each image."""

    quality: Evaluation | None
    classes: Tensor

    def interval(self, labels: Tensor) -> tuple[float, float] | None:
        """Return the ends of the 95 % confidence interval of top-1, in per cent."""
        if self.quality is None:
            return None
        return wilson_interval(int((self.classes == labels).sum()), len(labels))


def answers_of(
    module: nn.Module,
    batches: Batches,
    place: torch.device,
    progress: ProgressCallback | None,
) -> Answered:
    """Let a network answer on images, with labels or without.

    Raises:
        DataError: the network does not take the images, or does not have their classes.
    """
    if batches.dataset.labelled:
        return Answered(*quality_and_answers(module, batches, device=place, progress=progress))
    return Answered(None, answers(module, batches, device=place, progress=progress))
