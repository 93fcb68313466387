"""The rules by which gradients become steps, and what they remember between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Parameter

from alds_cli.options.training_options import RetrainSettings

STEP = "step"
"""The key of the number of steps in a parameter's state; what has another key is its like."""

_RMSPROP_SMOOTHING = 0.99
_ADAMW_SMOOTHING = 0.999


def optimiser_of(
    settings: RetrainSettings, parameters: Sequence[Parameter], undecayed: Sequence[Parameter] = ()
) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name; the rate is set before each step.

    Args:
        settings: the hyperparameters.
        parameters: those that weight decay is for.
        undecayed: those after them that it is not for.
    """
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if undecayed:
        groups.append({"params": undecayed, "weight_decay": 0.0})
    if settings.optimiser == "rmsprop":
        return torch.optim.RMSprop(
            groups,
            lr=settings.lr,
            alpha=_RMSPROP_SMOOTHING if settings.smoothing is None else settings.smoothing,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    if settings.optimiser == "adamw":
        second = _ADAMW_SMOOTHING if settings.smoothing is None else settings.smoothing
        return torch.optim.AdamW(
            groups,
            lr=settings.lr,
            betas=(settings.momentum, second),
            weight_decay=settings.weight_decay,
        )
    return torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def remembered(settings: RetrainSettings) -> frozenset[str]:
    """Return the keys of what the optimiser remembers of a parameter."""
    if settings.optimiser == "adamw":
        return frozenset({STEP, "exp_avg", "exp_avg_sq"})
    momentum = (
        {"momentum_buffer"} if settings.momentum > 0 or settings.optimiser == "sgd" else set()
    )
    squares = {STEP, "square_avg"} if settings.optimiser == "rmsprop" else set()
    return frozenset(momentum | squares)
