"""Measures of a network: quality, speed, and the classes that its outputs stand for."""

from alds_cli.evaluation.measures import (
    assigned,
    count_classes,
    measure_latency,
    measure_quality,
)

__all__ = ["assigned", "count_classes", "measure_latency", "measure_quality"]
