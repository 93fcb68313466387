"""How to retrain: the hyperparameters, and the learning rate they give for every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alds_cli.datasets import AUGMENTATIONS
from alds_cli.errors import OptionError


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
        augmentation: a name in `alds_cli.datasets.AUGMENTATIONS`, or "auto".
        label_smoothing: share of the target spread over all classes, in [0, 1).
        seed: of the order of the images, their augmentation and dropout.

    Raises:
        OptionError: values that make no sense, all of them listed at once.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    augmentation: str = "auto"
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value, and the combinations."""
        known = ("auto", *AUGMENTATIONS)
        rules = (
            (self.epochs >= 1, f"epochs {self.epochs} is below 1"),
            (self.batch_size >= 2, f"batch size {self.batch_size} is below 2"),
            (0 < self.lr < math.inf, f"lr {self.lr} is not positive"),
            (0 <= self.momentum < 1, f"momentum {self.momentum} is not in [0, 1)"),
            (self.momentum > 0 or not self.nesterov, "nesterov needs momentum above 0"),
            (0 <= self.weight_decay < math.inf, f"weight decay {self.weight_decay} is negative"),
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
                f"augmentation '{self.augmentation}' is none of {', '.join(known)}",
            ),
            (
                0 <= self.label_smoothing < 1,
                f"label smoothing {self.label_smoothing} is not in [0, 1)",
            ),
            (self.seed >= 0, f"seed {self.seed} is negative"),
        )
        problems = [problem for holds, problem in rules if not holds]
        if problems:
            raise OptionError(
                "retraining cannot run with these settings: " + "; ".join(problems),
                tip="correct the values named",
            )


def learning_rate(settings: RetrainSettings, step: int, steps_per_epoch: int) -> float:
    """The learning rate of step 0, 1, … of the whole run.

    The warm-up's first step already moves: it takes lr / (steps of the warm-up), and the
    last one takes lr.
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    total = settings.epochs * steps_per_epoch
    passed = sum(step >= milestone * total for milestone in settings.milestones)
    rise = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    return settings.lr * rise * settings.gamma**passed
