"""Measures of a network: quality, speed, and the classes that its outputs stand for."""

from alds_cli.evaluation.measures import (
    agreement,
    all_logits,
    answers,
    assigned,
    count_classes,
    divergences,
    measure_latency,
    measure_quality,
)

__all__ = [
    "agreement",
    "all_logits",
    "answers",
    "assigned",
    "count_classes",
    "divergences",
    "measure_latency",
    "measure_quality",
]
