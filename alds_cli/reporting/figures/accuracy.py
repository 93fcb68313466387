"""Pictures of accuracy over the share removed, and over latency, with a line for each method."""

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
from alds_cli.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOWEST = -20.0
"""The lowest difference in top-1 that is shown, in points; networks below it are of no use."""

CLOSE = -3.0
"""The lowest difference in the close-up panel, in points: the largest δ of the paper's tables."""

Abscissa = Callable[[Point], float | None]


@dataclass(frozen=True, slots=True)
class _Curve:
    """The line of one method: mean, least and largest difference in top-1 over `across`.

    The first `unmarked` points are not runs of the sweep and get no marker.
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
        """Whether any repeats differ from one another."""
        return self.least != self.largest

    @property
    def path(self) -> list[tuple[float, float]]:
        """The vertices of the line of means."""
        return list(zip(self.across, self.means, strict=True))


def removed_params(point: Point) -> float | None:
    """Return the parameters removed in per cent, as the mean over the repeats."""
    return fmean(map(float, point.params)) if point.params else None


def removed_macs(point: Point) -> float | None:
    """Return the MACs removed in per cent, as the mean over the repeats."""
    return fmean(map(float, point.macs)) if point.macs else None


def slowdown(point: Point) -> float | None:
    """Return the median latency as a multiple of the original's, as the mean over the repeats."""
    return fmean(point.slowdown) if point.slowdown else None


def over_removed(
    results: Results, retrain_epochs: int, abscissa: Abscissa, label: str
) -> Figure | None:
    """Draw the difference in top-1 over the share that is removed.

    If some method loses more than `CLOSE`, a second panel shows the small differences. Lines
    are means, and the band around a line reaches from the least to the largest repeat. Without
    retraining the lines begin at the original network, at (0, 0).

    Returns:
        The picture, or None if there is nothing to draw.
    """
    curves = _curves(results, retrain_epochs, abscissa, from_origin=retrain_epochs == 0)
    if not curves:
        return None
    figure = _figure()
    far = any(min(curve.means) < CLOSE for curve in curves)
    bottoms = (LOWEST, CLOSE) if far else (LOWEST,)  # otherwise both panels would be the same
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
    """Draw the difference in top-1 over the latency of one forward pass.

    Latencies are multiples of the original's. Each network was timed in turns with the
    original, so that other load on the machine slowed both.

    Returns:
        The picture, or None if no latency was measured.
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
    """Make the line of every method, by ascending ratio."""
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
        label=f" {visible(curve.method)}",  # the space, because legends skip labels such as _name
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
    """Cut the picture off below `lowest`, and state above it how many points that hides.

    The abscissa covers the visible parts of the lines, and the value `within`.
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
    """Return the abscissae of vertices above `bottom` and of the points where lines cross it.

    If there are none, return those of all vertices, since an empty picture needs limits too.
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
