"""Values on the training of networks: the images, every epoch, and what an artefact tells of it."""

from dataclasses import dataclass

from alds_cli.forms import (
    Count,
    Digest,
    Finite,
    Percent,
    Positive,
    Seconds,
    Seed,
)
from alds_cli.options.training_options import RetrainSettings


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells a set of labelled images from others, wherever it lies: digests of its parts."""

    images: Digest
    labels: Digest


@dataclass(frozen=True, slots=True)
class Division:
    """How a training set was divided at random: the seed, and the images in each part.

    The parts follow from the seed and the number of all images; `fingerprint` is that of the
    whole set.
    """

    seed: Seed
    train: Positive
    calibration: Positive
    early_stopping: Positive
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch: `lr` of its last step, mean training `loss` and `accuracy` in per cent.

    `validation_loss` and `validation_accuracy` are those on samples held back, if there are any.
    Accuracies are None where a network gives states, which are neither right nor wrong.
    """

    epoch: Positive
    lr: Finite
    loss: Finite
    accuracy: Percent | None
    seconds: Seconds
    validation_loss: Finite | None = None
    validation_accuracy: Percent | None = None


@dataclass(frozen=True, slots=True)
class EpochProgress:
    """What the `step` first steps of an epoch have come to.

    `loss` is the sum over all that was `counted`, which are images, pixels with a class or tokens;
    of these, `correct` were right. They took `seconds`.
    """

    step: Count = 0
    loss: Finite = 0.0
    correct: Finite = 0.0
    seconds: Seconds = 0.0
    counted: Finite = 0.0


NOT_BEGUN = EpochProgress()
"""The progress of an epoch before its first step."""


@dataclass(frozen=True, slots=True)
class Training:
    """What an artefact says of its retraining: nothing measured in time.

    `loss` and `accuracy` are those of the epoch whose weights were kept, over `images` training
    samples; the last one, unless images were held back. `teacher` is the fingerprint of the
    weights that were learnt from.
    """

    settings: RetrainSettings
    images: Positive
    loss: Finite
    accuracy: Percent | None
    epoch: Positive | None = None
    validation_loss: Finite | None = None
    validation_accuracy: Percent | None = None
    teacher: Digest | None = None
