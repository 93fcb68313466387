"""The hyperparameters of a training's steps: their size, and what they are made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

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
from alds_cli.options.readers import are_milestones, parse_milestones
from alds_cli.text import MOST_SAMPLES, MOST_SEED, Real, Whole

AugmentationName = Literal["auto", "none", "crop-flip", "resized-crop-flip", "scaled-crop-flip"]
"""Ways to change training images at random; "auto" chooses by the preprocessing."""

OptimiserName = Literal["sgd", "rmsprop", "adamw"]
"""The rules by which gradients become steps, all of `torch.optim`."""

ScheduleName = Literal["multistep", "step", "exponential", "polynomial", "cosine", "warm"]
"""How the learning rate falls; see `alds_cli.retraining.schedules`."""

_MOST_FACTOR = 10**6
"""The largest learning rate or weight decay that the command line takes."""

_MOST_POWER = 100


@dataclass(frozen=True, slots=True)
class StepSettings:
    """The hyperparameters of the steps of one training run.

    The learning rate rises linearly from 0 to `lr` during the warm-up (Goyal et al. 2017), and
    falls by the schedule. Milestones are fractions of the schedule, so that it keeps its shape
    when `epochs` changes: that of He et al. 2016 (epochs 91 and 136 of 182) is (0.5, 0.75).

    With `schedule_epochs` e and `epochs` r the run has the learning rates of the epochs e − r to
    e of the schedule, which is called rewinding (Renda et al. 2020).

    The defaults are for recovering a compressed network in one to three epochs: on
    CIFAR-10 ResNet20 at 44 and 71 % fewer parameters a rate of 0.01 without a warm-up was
    the best of 0.003 to 0.1, or about a point of held-out accuracy behind it. Training
    from scratch takes 0.1 and a warm-up.

    Attributes:
        epochs: passes over the data.
        batch_size: images in a step, at least 2, because batch normalisation needs two.
        optimiser: an `OptimiserName`.
        lr: the learning rate after the warm-up.
        momentum: of the gradient's running sum, in [0, 1); AdamW's first beta.
        nesterov: whether to look ahead by Nesterov's rule; only for "sgd".
        smoothing: share of the old mean of squared gradients in the new one, in [0, 1): alpha of
            RMSprop, second beta of AdamW. None is PyTorch's default, 0.99 and 0.999.
        weight_decay: factor of the weights added to their gradient, biases and
            normalisation included; AdamW takes it off the weights instead.
        clip_norm: the largest norm of the gradient of all parameters together, to which longer
            ones are shortened; None leaves them.
        schedule: a `ScheduleName`.
        schedule_epochs: length of the schedule, at least `epochs`; None is that of the run.
        warmup_epochs: length of the warm-up; parts of an epoch are allowed.
        milestones: ascending fractions of the schedule in (0, 1), for "multistep".
        gamma: factor of the learning rate at a milestone, or every `decay_every`, in (0, 1].
        decay_every: epochs in which "step" and "exponential" multiply the rate by `gamma`.
        power: the exponent of "polynomial".
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
    optimiser: Annotated[
        Term,
        Option(
            help="sgd, rmsprop or adamw.",
            values=get_args(OptimiserName),
            metavar="NAME",
            flags=("--optimiser", "--optimizer"),
            panel=TRAINING,
        ),
    ] = "sgd"
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
            help="Share of the last step that is added to the next one; AdamW's first beta.",
            metavar="X",
            bounds=Real(0, 1, below=True),
            panel=TRAINING,
        ),
    ] = 0.9
    nesterov: Annotated[
        bool, Option(help="Look ahead by Nesterov's rule, with sgd.", panel=TRAINING)
    ] = False
    smoothing: Annotated[
        Finite | None,
        Option(
            help="Share of the old mean of squared gradients in the new one: RMSprop's alpha "
            "(0.99), AdamW's second beta (0.999).",
            metavar="X",
            bounds=Real(0, 1, below=True),
            panel=TRAINING,
            given=float,
        ),
    ] = None
    weight_decay: Annotated[
        Finite,
        Option(
            help="The weights times this factor are added to their gradient.",
            metavar="X",
            bounds=Real(0, _MOST_FACTOR),
            panel=TRAINING,
        ),
    ] = 1e-4
    clip_norm: Annotated[
        Finite | None,
        Option(
            help="Largest norm of the gradient of all parameters; longer ones are shortened to it.",
            metavar="X",
            bounds=Real(0, _MOST_FACTOR, above=True),
            panel=TRAINING,
            given=float,
        ),
    ] = None
    schedule: Annotated[
        Term,
        Option(
            help="How the learning rate falls: multistep (by --gamma at --milestones), step (every "
            "--decay-every epochs), exponential (the same in every step), polynomial, cosine, or "
            "warm (a cosine over the epochs of this run alone, after a warm-up of a tenth of it "
            "at most).",
            values=get_args(ScheduleName),
            metavar="NAME",
            panel=TRAINING,
        ),
    ] = "multistep"
    schedule_epochs: Annotated[
        Positive | None,
        Option(
            help="Length of the whole schedule, of which the run repeats the last --epochs. "
            "Without it, the run is the schedule.",
            metavar="N",
            bounds=Whole(1, MOST_EPOCHS),
            panel=TRAINING,
            given=int,
        ),
    ] = None
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
            help="Fractions of the schedule after which the rate is multiplied by --gamma.",
            metavar="F,F",
            panel=TRAINING,
            given=str,
            read=parse_milestones,
        ),
    ] = (0.5, 0.75)
    gamma: Annotated[
        Finite,
        Option(
            help="Factor of the learning rate at a milestone, or every --decay-every epochs.",
            metavar="X",
            bounds=Real(0, 1, above=True),
            panel=TRAINING,
        ),
    ] = 0.1
    decay_every: Annotated[
        Finite,
        Option(
            help="Epochs in which the schedules step and exponential multiply the rate by --gamma.",
            metavar="E",
            bounds=Real(0, MOST_EPOCHS, above=True),
            panel=TRAINING,
        ),
    ] = 1.0
    power: Annotated[
        Finite,
        Option(
            help="Exponent of the polynomial schedule.",
            metavar="X",
            bounds=Real(0, _MOST_POWER, above=True),
            panel=TRAINING,
        ),
    ] = 1.0
    augmentation: Annotated[
        Term,
        Option(
            help="none, crop-flip (small images), resized-crop-flip (large ones), scaled-crop-flip "
            "(those with masks) or auto.",
            values=get_args(AugmentationName),
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
        rules = [*self._steps(), *self._rates(), *self._loop()]
        problems = [problem for holds, problem in rules if not holds]
        if problems:
            raise OptionError(
                "retraining cannot run with these settings: " + "; ".join(problems),
                tip="correct the values named",
            )

    def _steps(self) -> Iterator[tuple[bool, str]]:
        """Yield the rules of all but the schedule, each with what is wrong where it is broken."""
        yield 1 <= self.epochs <= MOST_EPOCHS, f"epochs {self.epochs} is not in [1, {MOST_EPOCHS}]"
        yield 2 <= self.batch_size <= MOST, f"batch size {self.batch_size} is not in [2, {MOST}]"
        yield named("optimiser", self.optimiser, OptimiserName)
        yield 0 < self.lr <= LARGEST_RATE, f"lr {self.lr} is not in (0, {LARGEST_RATE:g}]"
        yield 0 <= self.momentum < 1, f"momentum {self.momentum} is not in [0, 1)"
        yield self.momentum > 0 or not self.nesterov, "nesterov needs momentum above 0"
        yield self.optimiser == "sgd" or not self.nesterov, "nesterov goes with the optimiser sgd"
        smoothing = 0 if self.smoothing is None else self.smoothing
        yield 0 <= smoothing < 1, f"smoothing {smoothing} is not in [0, 1)"
        yield (
            0 <= self.weight_decay <= LARGEST_RATE,
            f"weight decay {self.weight_decay} is not in [0, {LARGEST_RATE:g}]",
        )
        longest = 1 if self.clip_norm is None else self.clip_norm
        yield 0 < longest <= LARGEST_RATE, f"clip norm {longest} is not in (0, {LARGEST_RATE:g}]"
        yield named("augmentation", self.augmentation, AugmentationName)
        yield (
            0 <= self.label_smoothing < 1,
            f"label smoothing {self.label_smoothing} is not in [0, 1)",
        )
        yield 0 <= self.seed < 2**64, f"seed {self.seed} is not in [0, 2^64)"

    def _loop(self) -> Iterator[tuple[bool, str]]:
        """Yield the rules of what a class that inherits from this one adds."""
        yield from ()

    def _rates(self) -> Iterator[tuple[bool, str]]:
        """Yield the rules of the schedule."""
        yield named("schedule", self.schedule, ScheduleName)
        whole = self.epochs if self.schedule_epochs is None else self.schedule_epochs
        yield (
            self.epochs <= whole <= MOST_EPOCHS,
            f"{self.epochs} epochs do not fit into a schedule of {whole}",
        )
        most = MOST_EPOCHS if self.schedule == "warm" else whole
        yield (
            0 <= self.warmup_epochs <= most,
            f"warm-up of {self.warmup_epochs} epochs does not fit into {most}",
        )
        yield (
            are_milestones(self.milestones),
            f"milestones {list(self.milestones)} are not ascending fractions in (0, 1)",
        )
        yield 0 < self.gamma <= 1, f"gamma {self.gamma} is not in (0, 1]"
        yield (
            0 < self.decay_every <= MOST_EPOCHS,
            f"decay every {self.decay_every} epochs is not in (0, {MOST_EPOCHS}]",
        )
        yield 0 < self.power <= _MOST_POWER, f"power {self.power} is not in (0, {_MOST_POWER}]"


def named(what: str, given: str, kind: Any) -> tuple[bool, str]:
    """Return the rule that a value is one of a literal type's, with what is wrong otherwise."""
    known = get_args(kind)
    return given in known, f"{what} {given!r} is none of {', '.join(known)}"
