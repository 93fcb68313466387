"""What `alds evaluate` shows people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group

from alds_cli.cli.interface import line, table
from alds_cli.cli.rendering import spread
from alds_cli.text import count, signed

if TYPE_CHECKING:
    from alds_cli.api import EvaluationResult, Measured
    from alds_cli.records import Comparison

Row = tuple[str, list[str], str]
"""A name, the values of the networks, and the difference."""


def evaluation(result: EvaluationResult) -> Group:
    """Show quality and cost, beside those of the baseline if there is one."""
    both = [result.model, *([result.baseline] if result.baseline else [])]
    columns = ("", "model") if result.baseline is None else ("", "model", "baseline", "difference")
    made = table(None, *columns)
    rows = (*_qualities(both), *_segmentations(both), *_languages(both), *_costs(both))
    for name, values, difference in rows:
        made.add_row(name, *values, *([difference] if result.baseline else []))
    texts = result.preprocessing is None
    lines = [f"{result.images:,} {'texts' if texts else 'images'} on {result.device}"]
    if result.model.language is not None:
        lines[0] += f", {result.model.language.tokens:,} tokens foretold"
    if result.comparison is not None and texts:
        lines += _compared_on_texts(result.comparison)
    elif result.comparison is not None:
        unit = "images" if result.model.segmentation is None else "pixels that have a class"
        lines += _compared(result.comparison, unit)
    return Group(made, *(line(text) for text in lines))


def _qualities(both: Sequence[Measured]) -> Iterator[Row]:
    found = [measured.quality for measured in both if measured.quality is not None]
    if len(found) < len(both):
        return
    accuracies = [quality.top1 for quality in found]
    yield _row("top-1", accuracies, [interval_of_top1(measured) for measured in both], ".2f")
    fives = [quality.top5 for quality in found if quality.top5 is not None]
    if len(fives) == len(found):
        yield _row("top-5", fives, [f"{value:.2f} %" for value in fives], ".2f")
    losses = [quality.loss for quality in found]
    yield _row("loss", losses, [f"{value:.4f}" for value in losses], ".4f")


def _segmentations(both: Sequence[Measured]) -> Iterator[Row]:
    found = [measured.segmentation for measured in both if measured.segmentation is not None]
    if len(found) < len(both):
        return
    for name, numbers in (
        ("mean IoU", [quality.mean_iou for quality in found]),
        ("pixel accuracy", [quality.pixel_accuracy for quality in found]),
    ):
        yield _row(name, numbers, [f"{value:.2f} %" for value in numbers], ".2f")
    losses = [quality.loss for quality in found]
    yield _row("loss", losses, [f"{value:.4f}" for value in losses], ".4f")


def _languages(both: Sequence[Measured]) -> Iterator[Row]:
    found = [measured.language for measured in both if measured.language is not None]
    if len(found) < len(both):
        return
    perplexities = [own.perplexity for own in found]
    change = f"×{perplexities[0] / perplexities[-1]:.4f}"
    yield "perplexity", [f"{value:,.3f}" for value in perplexities], change
    losses = [own.loss for own in found]
    yield _row("loss per token", losses, [f"{value:.4f}" for value in losses], ".4f")


def _compared_on_texts(comparison: Comparison) -> Iterator[str]:
    """Say in lines how two networks differ on texts."""
    if comparison.agreement is not None:
        yield f"the same next token in {comparison.agreement:.2f} % of the places"
    if comparison.cosine is not None:
        yield f"the mean cosine of what both give for a token is {comparison.cosine:.4f}"
    if comparison.difference_low is not None and comparison.difference_high is not None:
        low, high = (
            signed(end, ".4f") for end in (comparison.difference_low, comparison.difference_high)
        )
        yield f"the difference of the loss lies between {low} and {high} (95 % confidence)"


def _row(name: str, numbers: Sequence[float], shown: list[str], form: str) -> Row:
    return name, shown, signed(numbers[0] - numbers[-1], form)


def interval_of_top1(measured: Measured) -> str:
    """Format top-1 and the ends of its confidence interval."""
    assert measured.quality is not None  # noqa: S101 - asked before
    ends = measured.top1_interval or (measured.quality.top1,) * 2
    return f"{measured.quality.top1:.2f} % ({ends[0]:.2f}–{ends[1]:.2f})"


def _costs(both: Sequence[Measured]) -> Iterator[Row]:
    costs = [measured.footprint for measured in both]
    for name, numbers in (
        ("parameters", [cost.params for cost in costs]),
        ("MACs", [cost.macs for cost in costs]),
        ("bytes", [cost.bytes for cost in costs]),
    ):
        yield name, [count(n) for n in numbers], _change(numbers[-1], numbers[0])
    latencies = [cost.latency for cost in costs if cost.latency is not None]
    if len(latencies) == len(costs):
        medians = [latency.median_ms for latency in latencies]
        yield "latency", [spread(own) for own in latencies], f"×{medians[0] / medians[-1]:.2f}"


def _change(before: int | None, after: int | None) -> str:
    """Format by what share a cost has grown or shrunk."""
    if not before or after is None:
        return "–"
    return f"{signed(100 * (after / before - 1), '.2f')} %"


def _compared(comparison: Comparison, unit: str) -> Iterable[str]:
    """Say in lines how the answers of two networks differ, and whether that may be chance."""
    same = f"the same answer on {comparison.agreement:.2f} % of the {unit}"
    if comparison.p_value is None:
        yield same
        if comparison.difference is not None:
            yield f"{_interval_of_difference(comparison, 'mean IoU')} (95 % confidence)"
        return
    yield (
        f"{same}; only the model is right on {count(comparison.only_model)}, only the baseline on "
        f"{count(comparison.only_baseline)}"
    )
    yield (
        f"{_interval_of_difference(comparison, 'top-1')} (95 % confidence; "
        f"McNemar's p = {comparison.p_value:.2g})"
    )


def _interval_of_difference(comparison: Comparison, measure: str) -> str:
    ends = (comparison.difference_low or 0.0, comparison.difference_high or 0.0)
    low, high = (signed(end, ".2f") for end in ends)
    return f"the difference of {measure} lies between {low} and {high} points"
