"""Measures of a network: quality, speed, and the classes that its outputs stand for."""

from alds_cli.evaluation.measures import (
    answers,
    assigned,
    count_classes,
    measure_latency,
    measure_quality,
)

__all__ = ["answers", "assigned", "count_classes", "measure_latency", "measure_quality"]
