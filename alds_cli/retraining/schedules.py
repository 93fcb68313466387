"""Learning rates, as a function of the settings and the number of a step alone.

Sources: He et al., CVPR 2016 (milestones); Goyal et al., arXiv 1706.02677 (linear warm-up);
Loshchilov, Hutter, ICLR 2017 (cosine); Chen et al., arXiv 1706.05587 (polynomial); Renda, Frankle,
Carbin, ICLR 2020 (rewinding).
"""

from __future__ import annotations

import math

from alds_cli.options.training_options import RetrainSettings

_LONGEST_WARMUP = 0.1
"""The largest share of a run that the warm-up of the schedule "warm" takes."""

_SLACK = 1e-9
"""Relative rounding errors of a milestone's step, which must not put it off to the next step."""


def learning_rate(settings: RetrainSettings, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step of the run, counted from 0.

    A run of r epochs with a schedule of e epochs has the rates of the schedule's last r. The
    warm-up is linear: its first step has the rate lr / (steps of the warm-up), and its last one
    has lr. Over the schedule's steps t of T, with f(0) = 1, the rate is lr times

    - `multistep`: gamma for each milestone that has passed;
    - `step`: gamma for each `decay_every` epochs that have passed;
    - `exponential`: gamma to the power of (epochs so far / `decay_every`), parts included;
    - `polynomial`: (1 − t/T) to `power`;
    - `cosine`: (1 + cos(π t/T)) / 2;
    - `warm`: the same over the run alone, whose warm-up is at most a tenth of it.

    Args:
        settings: the hyperparameters.
        step: the step of the whole run.
        steps_per_epoch: number of steps in an epoch.
    """
    whole = settings.schedule_epochs or settings.epochs
    warmup = settings.warmup_epochs
    if settings.schedule == "warm":
        whole = settings.epochs
        warmup = min(warmup, _LONGEST_WARMUP * whole)
    at = step + (whole - settings.epochs) * steps_per_epoch
    rising = warmup * steps_per_epoch
    rise = min(1.0, (at + 1) / rising) if rising > 0 else 1.0
    return settings.lr * rise * _fall(settings, at, whole * steps_per_epoch, steps_per_epoch)


def _fall(settings: RetrainSettings, at: int, total: int, steps_per_epoch: int) -> float:
    """Return the rate of a step as a part of the largest, without the warm-up."""
    schedule = settings.schedule
    if schedule == "multistep":
        return math.prod(settings.gamma for own in settings.milestones if _passed(at, own * total))
    if schedule in {"step", "exponential"}:
        times = at / (settings.decay_every * steps_per_epoch)
        return math.pow(
            settings.gamma, math.floor(times * (1 + _SLACK)) if schedule == "step" else times
        )
    if schedule == "polynomial":
        return math.pow(1 - at / total, settings.power)
    return 0.5 * (1 + math.cos(math.pi * at / total))


def _passed(at: int, milestone: float) -> bool:
    return at >= milestone * (1 - _SLACK)
