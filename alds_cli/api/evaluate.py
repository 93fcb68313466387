"""Measure networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.evaluate_options import EvaluateOptions
from alds_cli.options.keywords import takes_fields

if TYPE_CHECKING:
    from alds_cli.evaluation.models import EvaluationResult


@takes_fields(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> EvaluationResult:
    """Measure accuracy, loss, parameters, MACs, bytes and latency.

    Raises:
        DataError: the data cannot be used, or not with this network.
        AldsError: a model cannot be read.
    """
    from alds_cli.evaluation import models  # noqa: PLC0415 - it imports torch

    return models.evaluate(options)
