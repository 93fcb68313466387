"""Measures of a network: quality, speed, and the classes that its outputs stand for."""

from alds_cli.evaluation.measures import (
    all_logits,
    answers,
    assigned,
    count_classes,
    divergence,
    divergences,
    measure_latency,
    measure_quality,
)

__all__ = [
    "all_logits",
    "answers",
    "assigned",
    "count_classes",
    "divergence",
    "divergences",
    "measure_latency",
    "measure_quality",
]
