"""What `alds compare` shows people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group

from alds_cli.cli.evaluation_table import interval_of_top1
from alds_cli.cli.interface import line, table
from alds_cli.text import count, removed, signed, size

if TYPE_CHECKING:
    from alds_cli.api import ComparedModel, ModelComparison
    from alds_cli.records import Comparison

Column = tuple[str, Callable[["ComparedModel"], str]]
"""A heading, and what stands below it for a model."""


def comparison(found: ModelComparison) -> Group:
    """Show a row for every model, and say what is compared with what."""
    first = found.models[0]
    columns = [*_sizes(first), *_judged(found.models)]
    made = table(None, "model", "method", *(heading for heading, _ in columns), left=2)
    for model in found.models:
        made.add_row(model.name, model.method or "–", *(shown(model) for _, shown in columns))
    told = [f"all are compared with {first.name}; error: the largest of a layer"]
    if found.images is not None:
        told.append(
            f"on {count(found.images)} images and {found.device}; in brackets 95 % confidence; "
            "≈: no difference is shown"
        )
    return Group(made, *(line(text) for text in told))


def _sizes(first: ComparedModel) -> list[Column]:
    return [
        ("parameters", lambda model: count(model.params)),
        ("removed", lambda model: "" if model is first else removed(first.params, model.params)),
        ("MACs", lambda model: count(model.macs)),
        ("removed", lambda model: "" if model is first else removed(first.macs, model.macs)),
        ("file", lambda model: size(model.nbytes)),
        ("error", lambda model: "" if model is first else _error(model)),
    ]


def _error(model: ComparedModel) -> str:
    return "–" if model.max_relative_error is None else f"{model.max_relative_error:.4f}"


def _judged(models: Sequence[ComparedModel]) -> list[Column]:
    measured = models[0].measured
    if measured is None:
        return []
    columns: list[Column] = []
    if measured.quality is not None:
        columns.append(("top-1", _top1))
    elif measured.segmentation is not None:
        columns.append(("mean IoU", _mean_iou))
    else:
        columns.append(("same answers", _agreement))
    if measured.quality is not None or measured.segmentation is not None:
        columns.append(("difference", _difference))
    return [*columns, ("latency", _latency), ("of the first", _slowdown)]


def _top1(model: ComparedModel) -> str:
    return interval_of_top1(model.measured) if model.measured else ""


def _mean_iou(model: ComparedModel) -> str:
    masks = model.measured and model.measured.segmentation
    return f"{masks.mean_iou:.2f} %" if masks else ""


def _agreement(model: ComparedModel) -> str:
    return f"{model.comparison.agreement:.2f} %" if model.comparison else ""


def _difference(model: ComparedModel) -> str:
    """Format a difference with its interval; one that may be chance is no difference."""
    own: Comparison | None = model.comparison
    if own is None or own.difference is None:
        return ""
    low, high = own.difference_low or 0.0, own.difference_high or 0.0
    sign = "≈ " if low <= 0 <= high else ""
    return f"{sign}{signed(own.difference, '.2f')} ({signed(low, '.2f')} to {signed(high, '.2f')})"


def _latency(model: ComparedModel) -> str:
    return f"{model.latency.median_ms:.3f} ms" if model.latency else ""


def _slowdown(model: ComparedModel) -> str:
    own = model.slowdown
    if own is None:
        return ""
    return f"{'' if own.shown else '≈ '}×{own.median:.2f} ({own.low:.2f}–{own.high:.2f})"
