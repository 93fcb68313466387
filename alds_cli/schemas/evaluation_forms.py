"""The document that `alds evaluate` prints with `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from alds_cli.forms import Form, Real
from alds_cli.records import Comparison, Gate, Latency, Preprocessing
from alds_cli.schemas.results import Printed


class QualityForm(Form):
    """A network's quality; accuracies in per cent, the loss in nats.

    The quality is null where the images have no labels. `top1_interval` holds the ends of the 95 %
    confidence interval. Images with masks have `pixel_accuracy` and `mean_iou` in per cent, and
    no top-1. Texts have a `perplexity`, and the loss is that of a token.
    """

    top1: Real | None
    top1_interval: Sequence[Real] | None
    top5: Real | None
    loss: Real | None
    pixel_accuracy: Real | None
    mean_iou: Real | None
    perplexity: Real | None
    tokens: int | None


class MeasuredForm(QualityForm):
    """A network's quality and cost."""

    images: int
    params: int
    macs: int | None
    bytes: int | None
    latency_ms: Real | None
    latency: Latency | None


class EvaluateForm(MeasuredForm, Printed):
    """Printed by `alds evaluate`."""

    baseline: MeasuredForm | None
    comparison: Comparison | None
    gates: Sequence[Gate]
    preprocessing: Preprocessing | None
    device: str
    classes: Literal["named", "file", "numbered"] | None
    classes_warning: str | None
