"""The learning rate that the hyperparameters of a retraining give for every step."""

from __future__ import annotations

from alds_cli.records import RetrainSettings


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
