"""The hyperparameters of a retraining."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from annotated_types import Len

from alds_cli.errors import OptionError
from alds_cli.forms import (
    LARGEST_RATE,
    MOST,
    MOST_EPOCHS,
    Finite,
    Positive,
    Seed,
    Term,
)
from alds_cli.options.declaring import TRAINING, Option
from alds_cli.text import MOST_SAMPLES, MOST_SEED, Real, Whole, fractions

AugmentationName = Literal["auto", "none", "crop-flip", "resized-crop-flip"]
"""Ways to change training images at random; "auto" chooses by the preprocessing."""

_MOST_FACTOR = 10**6
"""The largest learning rate or weight decay that the command line takes."""


@dataclass(frozen=True, slots=True)
class RetrainSettings:
    """The hyperparameters of one retraining run by stochastic gradient descent.

    The learning rate rises linearly from 0 to `lr` during the warm-up (Goyal et al.
    2017), then is multiplied by `gamma` at each milestone. Milestones are fractions of
    the run, so that a schedule keeps its shape when `epochs` changes: the schedule of He
    et al. 2016 (epochs 91 and 136 of 182) is (0.5, 0.75).

    The defaults are for recovering a compressed network in one to three epochs: on
    CIFAR-10 ResNet20 at 44 and 71 % fewer parameters a rate of 0.01 without a warm-up was
    the best of 0.003 to 0.1, or about a point of held-out accuracy behind it. Training
    from scratch takes 0.1 and a warm-up.

    Attributes:
        epochs: passes over the data.
        batch_size: images in a step, at least 2, because batch normalisation needs two.
        lr: the learning rate after the warm-up.
        momentum: of the gradient's running sum, in [0, 1).
        nesterov: whether to look ahead by Nesterov's rule.
        weight_decay: factor of the weights added to their gradient, biases and
            normalisation included.
        warmup_epochs: length of the warm-up; parts of an epoch are allowed.
        milestones: ascending fractions of the run in (0, 1).
        gamma: factor of the learning rate at a milestone, in (0, 1].
        augmentation: an `AugmentationName`.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        seed: of the order of the images, their augmentation and dropout.

    Raises:
        OptionError: values that make no sense, all of them listed at once.
    """

    epochs: Annotated[
        Positive,
        Option(
            help="Passes over the data.",
            metavar="N",
            bounds=Whole(1, MOST_EPOCHS),
            panel=TRAINING,
            default=3,
        ),
    ]
    batch_size: Annotated[
        Positive,
        Option(
            help="Images in a step.",
            metavar="N",
            bounds=Whole(2, MOST_SAMPLES),
            panel=TRAINING,
        ),
    ] = 128
    lr: Annotated[
        Finite,
        Option(
            help="Learning rate after the warm-up.",
            metavar="X",
            bounds=Real(0, _MOST_FACTOR, above=True),
            panel=TRAINING,
        ),
    ] = 0.01
    momentum: Annotated[
        Finite,
        Option(
            help="Share of the last step that is added to the next one.",
            metavar="X",
            bounds=Real(0, 1, below=True),
            panel=TRAINING,
        ),
    ] = 0.9
    nesterov: Annotated[bool, Option(help="Look ahead by Nesterov's rule.", panel=TRAINING)] = False
    weight_decay: Annotated[
        Finite,
        Option(
            help="The weights times this factor are added to their gradient.",
            metavar="X",
            bounds=Real(0, _MOST_FACTOR),
            panel=TRAINING,
        ),
    ] = 1e-4
    warmup_epochs: Annotated[
        Finite,
        Option(
            help="Length of the warm-up, in which the rate rises from 0.",
            metavar="E",
            bounds=Real(0, MOST_EPOCHS),
            panel=TRAINING,
        ),
    ] = 0.0
    milestones: Annotated[
        tuple[Finite, ...],
        Len(0, 1000),
        Option(
            help="Fractions of the run after which the rate is multiplied by --gamma.",
            metavar="F,F",
            panel=TRAINING,
            given=str,
            read=fractions,
        ),
    ] = (0.5, 0.75)
    gamma: Annotated[
        Finite,
        Option(
            help="Factor of the learning rate at a milestone.",
            metavar="X",
            bounds=Real(0, 1, above=True),
            panel=TRAINING,
        ),
    ] = 0.1
    augmentation: Annotated[
        Term,
        Option(
            help="none, crop-flip (small images), resized-crop-flip (large ones) or auto.",
            metavar="NAME",
            flags=("--augment",),
            panel=TRAINING,
        ),
    ] = "auto"
    label_smoothing: Annotated[
        Finite,
        Option(
            help="Share of the target that is spread over all classes.",
            metavar="X",
            bounds=Real(0, 1, below=True),
            panel=TRAINING,
        ),
    ] = 0.0
    seed: Annotated[
        Seed,
        Option(
            help="Seed of the images' order and augmentation.",
            metavar="N",
            bounds=Whole(0, MOST_SEED),
            panel=TRAINING,
        ),
    ] = 0

    def __post_init__(self) -> None:
        """Check every value, and their combinations."""
        known = get_args(AugmentationName)
        rules = (
            (1 <= self.epochs <= MOST_EPOCHS, f"epochs {self.epochs} is not in [1, {MOST_EPOCHS}]"),
            (
                2 <= self.batch_size <= MOST,
                f"batch size {self.batch_size} is not in [2, {MOST}]",
            ),
            (0 < self.lr <= LARGEST_RATE, f"lr {self.lr} is not in (0, {LARGEST_RATE:g}]"),
            (0 <= self.momentum < 1, f"momentum {self.momentum} is not in [0, 1)"),
            (self.momentum > 0 or not self.nesterov, "nesterov needs momentum above 0"),
            (
                0 <= self.weight_decay <= LARGEST_RATE,
                f"weight decay {self.weight_decay} is not in [0, {LARGEST_RATE:g}]",
            ),
            (
                0 <= self.warmup_epochs <= self.epochs,
                f"warm-up of {self.warmup_epochs} epochs does not fit into {self.epochs}",
            ),
            (
                all(0 < milestone < 1 for milestone in self.milestones)
                and sorted(set(self.milestones)) == list(self.milestones),
                f"milestones {list(self.milestones)} are not ascending fractions in (0, 1)",
            ),
            (0 < self.gamma <= 1, f"gamma {self.gamma} is not in (0, 1]"),
            (
                self.augmentation in known,
                f"augmentation {self.augmentation!r} is none of {', '.join(known)}",
            ),
            (
                0 <= self.label_smoothing < 1,
                f"label smoothing {self.label_smoothing} is not in [0, 1)",
            ),
            (0 <= self.seed < 2**64, f"seed {self.seed} is not in [0, 2^64)"),
        )
        problems = [problem for holds, problem in rules if not holds]
        if problems:
            raise OptionError(
                "retraining cannot run with these settings: " + "; ".join(problems),
                tip="correct the values named",
            )
