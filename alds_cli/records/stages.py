"""What is recorded of the steps of an iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Len

from alds_cli.forms import MOST_EPOCHS, Count, Finite, Positive, Seconds, Term
from alds_cli.records.trainings import EpochRecord


@dataclass(frozen=True, slots=True)
class IterationStage:
    """One step of an iteration: a compression of the dense form, and a retraining.

    Sizes before are those of the original, whatever the step began with.

    Attributes:
        step: 1, 2, …
        ratio: the fraction of the target that was to be removed so far.
        method: what planned; with `solver` and `bound`, where it has them.
        params_before: of the original.
        params_after: of the network after this step.
        macs_before: of one sample; None where the network was not run.
        macs_after: of one sample.
        max_relative_error: the largest true error of a layer in this step's compression, towards
            the weights that the step began with.
        history: the epochs of the retraining; none before it is finished.
        kept: the epoch whose weights were written: the last, or the best on images that judge.
        bytes: of the retrained artefact.
        seconds: by part of the step.
    """

    step: Positive
    ratio: Finite
    method: Term
    solver: Term | None
    bound: Term | None
    params_before: Positive
    params_after: Count
    macs_before: Count | None
    macs_after: Count | None
    max_relative_error: Finite | None
    history: Annotated[tuple[EpochRecord, ...], Len(0, MOST_EPOCHS)] = ()
    kept: Positive | None = None
    bytes: Count | None = None
    seconds: Mapping[Term, Seconds] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the step's network has been retrained."""
        return bool(self.history)

    @property
    def trained(self) -> EpochRecord:
        """The epoch whose weights were written, of a step that is finished."""
        return self.history[-1 if self.kept is None else min(self.kept, len(self.history)) - 1]

    @property
    def left(self) -> float:
        """The fraction of the original's parameters that is left."""
        return self.params_after / self.params_before


StageCallback = Callable[[IterationStage], None]
"""A function called with every step that is finished."""
