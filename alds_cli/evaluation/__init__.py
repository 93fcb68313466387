"""Measures of a network: quality, speed, and the classes that its outputs stand for."""

from alds_cli.evaluation.gates import Bounds
from alds_cli.evaluation.measures import (
    agreement,
    all_logits,
    answers,
    assigned,
    count_classes,
    divergences,
    measure_latency,
    measure_quality,
    quality_and_answers,
)
from alds_cli.evaluation.paired import (
    answers_drop,
    compared,
    counted_drop,
    mcnemar,
    paired_drop,
    wilson_interval,
)
from alds_cli.evaluation.paired_masks import ClassPixels, paired_iou_drop
from alds_cli.evaluation.pixel_answers import pixel_divergences, require_answers, segments
from alds_cli.evaluation.segmentation import count_masks, mask_loss, measure_masks, most_together

__all__ = [
    "Bounds",
    "ClassPixels",
    "agreement",
    "all_logits",
    "answers",
    "answers_drop",
    "assigned",
    "compared",
    "count_classes",
    "count_masks",
    "counted_drop",
    "divergences",
    "mask_loss",
    "mcnemar",
    "measure_latency",
    "measure_masks",
    "measure_quality",
    "most_together",
    "paired_drop",
    "paired_iou_drop",
    "pixel_divergences",
    "quality_and_answers",
    "require_answers",
    "segments",
    "wilson_interval",
]
