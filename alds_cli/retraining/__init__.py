"""Retraining a compressed network, to recover accuracy, in a reproducible way."""

from __future__ import annotations

from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import EpochRecord
from alds_cli.retraining.loop import RetrainResult, retrain
from alds_cli.retraining.schedules import learning_rate
from alds_cli.retraining.state import TrainingState

__all__ = [
    "EpochRecord",
    "RetrainResult",
    "RetrainSettings",
    "TrainingState",
    "learning_rate",
    "retrain",
]
