"""Accuracy over what is removed, and over latency: one line a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

from alds_cli.reporting.figures.style import (
    WIDTH,
    Line,
    line_of,
    percent,
)
from alds_cli.reporting.points import Point, Results
from alds_cli.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOWEST = -20.0
"""Points: where a network has lost more, its accuracy does not matter any more."""

CLOSE = -3.0
"""Points: the largest drop of the paper's tables, and so of the panel that looks closer."""

Abscissa = Callable[[Point], float | None]


@dataclass(frozen=True, slots=True)
class _Curve:
    """One method's line: over `across`, the mean, least and largest difference in top-1.

    The first `unmarked` points are no runs of the sweep.
    """

    method: str
    look: Line
    across: tuple[float, ...]
    means: tuple[float, ...]
    least: tuple[float, ...]
    largest: tuple[float, ...]
    unmarked: int

    @property
    def has_spread(self) -> bool:
        """Whether there are repeats that differ, or might."""
        return self.least != self.largest

    @property
    def path(self) -> list[tuple[float, float]]:
        """The mean's corners."""
        return list(zip(self.across, self.means, strict=True))


def removed_params(point: Point) -> float | None:
    """Parameters removed in per cent, mean over the repeats."""
    return fmean(map(float, point.params)) if point.params else None


def removed_macs(point: Point) -> float | None:
    """MACs removed in per cent, mean over the repeats."""
    return fmean(map(float, point.macs)) if point.macs else None


def slowdown(point: Point) -> float | None:
    """Median latency as a multiple of the original's, mean over the repeats."""
    return fmean(point.slowdown) if point.slowdown else None


def over_removed(
    results: Results, retrain_epochs: int, abscissa: Abscissa, label: str
) -> Figure | None:
    """Difference in top-1 over what is removed; where much is lost, once more close to nothing.

    Lines are means; the band around one reaches from the least to the largest repeat. Without
    retraining they begin at the network itself, which has lost nothing where nothing is removed.

    Returns:
        The picture, or None where there is nothing to draw.
    """
    curves = _curves(results, retrain_epochs, abscissa, from_origin=retrain_epochs == 0)
    if not curves:
        return None
    figure = _figure()
    far = any(min(curve.means) < CLOSE for curve in curves)
    bottoms = (LOWEST, CLOSE) if far else (LOWEST,)  # two alike would say nothing more
    panels = figure.subplots(1, len(bottoms), squeeze=False)[0]
    for axes, lowest in zip(panels, bottoms, strict=True):
        for curve in curves:
            _draw(axes, curve)
        axes.set_xlabel(label)
        _limit(axes, curves, lowest)
    panels[0].set_ylabel("difference in top-1 (points)")
    _legend(figure, panels[0], curves)
    return figure


def over_latency(results: Results, retrain_epochs: int) -> Figure | None:
    """Difference in top-1 over the latency of one forward pass.

    Latencies are multiples of the original's: each network was timed in turns with it, so that what
    else ran on the machine meanwhile slowed both.

    Returns:
        The picture, or None where no latency was measured.
    """
    curves = _curves(results, retrain_epochs, slowdown, from_origin=False)
    if not curves:
        return None
    figure = _figure()
    axes = figure.subplots()
    for curve in curves:
        _draw(axes, curve)
    axes.axvline(1, color="#808080", linewidth=0.8, dashes=(2, 2), zorder=1)
    axes.plot([1], [0], "*", color="#404040", markersize=9, label="the network before")
    timed = next(run.latency for point in results.points for run in point.records if run.latency)
    said = f"median, batch size {timed.batch_size}, {visible(timed.device)}"
    axes.set_xlabel(f"latency of a forward pass as a multiple of the original's ({said})")
    axes.set_ylabel("difference in top-1 (points)")
    _limit(axes, curves, LOWEST, within=1.0)
    _legend(figure, axes, curves)
    return figure


def _figure() -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra

    return Figure(figsize=(WIDTH, 3.6), layout="constrained")


def _curves(
    results: Results, retrain_epochs: int, abscissa: Abscissa, *, from_origin: bool
) -> list[_Curve]:
    """What to draw of every method, by ascending ratio."""
    start = [0.0] if from_origin else []
    found = []
    for number, method in enumerate(results.methods):
        points = [
            (value, [float(difference) for difference in point.top1])
            for point in results.of(method, retrain_epochs)
            if point.records and (value := abscissa(point)) is not None
        ]
        if points:
            found.append(
                _Curve(
                    method,
                    line_of(number),
                    tuple(start + [value for value, _ in points]),
                    tuple(start + [fmean(values) for _, values in points]),
                    tuple(start + [min(values) for _, values in points]),
                    tuple(start + [max(values) for _, values in points]),
                    len(start),
                )
            )
    return found


def _draw(axes: Axes, curve: _Curve) -> None:
    look = curve.look
    axes.plot(
        curve.across,
        curve.means,
        color=look.colour,
        marker=look.marker,
        markevery=slice(curve.unmarked, None),
        dashes=look.dashes,
        markerfacecolor=look.fill,
        markeredgewidth=0.8,
        label=f" {visible(curve.method)}",  # after a space, for legends leave out names like _own
    )
    if curve.has_spread:
        axes.fill_between(
            curve.across,
            curve.least,
            curve.largest,
            color=look.colour,
            alpha=0.15,
            linewidth=0,
        )


def _limit(
    axes: Axes, curves: Sequence[_Curve], lowest: float, *, within: float | None = None
) -> None:
    """Leave out what lies below `lowest`, and say so above the picture.

    The abscissa shows what is seen of the lines, and `within`.
    """
    means = [mean for curve in curves for mean in curve.means[curve.unmarked :]]
    highest = max(0.0, *means)
    bottom = max(lowest, min(0.0, *means))
    room = max(0.05 * (highest - bottom), 0.05)
    axes.set_ylim(bottom - room, highest + room)
    seen = _seen([curve.path for curve in curves], bottom - room)
    seen += [] if within is None else [within]
    margin = 0.04 * (max(seen) - min(seen)) or 1.0
    axes.set_xlim(min(seen) - margin, max(seen) + margin)
    axes.axhline(0, color="#404040", linewidth=0.8, zorder=1)
    axes.grid(visible=True)
    axes.locator_params(axis="y", steps=[1, 2, 5, 10])
    axes.yaxis.set_major_formatter(lambda value, _: percent(round(value, 6)))
    if cut := sum(mean < bottom - room for mean in means):
        said = f"{cut} of {len(means)} points are lower than {percent(bottom)} and left out"
        axes.set_title(said, loc="right", fontsize=6.5, color="#404040")


def _seen(paths: Sequence[Sequence[tuple[float, float]]], bottom: float) -> list[float]:
    """Where corners of the lines lie above `bottom`, and where lines cross it.

    All corners, where none does: an empty picture has limits too.
    """
    found = []
    for path in paths:
        found += [x for x, y in path if y >= bottom]
        for (x, y), (next_x, next_y) in pairwise(path):
            if (y >= bottom) != (next_y >= bottom):
                found.append(x + (next_x - x) * (bottom - y) / (next_y - y))
    return found or [x for path in paths for x, _ in path]


def _legend(figure: Figure, axes: Axes, curves: Sequence[_Curve]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    spread = any(curve.has_spread for curve in curves)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(4, len(labels)),
        frameon=False,
        handlelength=4,
        title="mean; band: least to largest repeat" if spread else None,
        title_fontsize=7,
    )
