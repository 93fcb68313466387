"""A map of the choices that a method makes for every layer (row) at every ratio (column)."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from alds_cli.records import SCHEMES, LayerReport, SweepRecord
from alds_cli.reporting.figures.style import WIDTH
from alds_cli.reporting.points import Point, Results
from alds_cli.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.15
"""Height of a row in inches: a line of the smallest type that is legible."""

_CELL = 0.36
"""Width of a column in inches, enough for an entry such as 16·128 h."""

_LEAST_HEIGHT = 2.6
"""Height in inches in which the label beside the colours has its place."""

_LONGEST_NAME = 34


def layer_map(results: Results, method: str, retrain_epochs: int) -> Figure | None:
    """Draw the fraction of every layer's parameters that stays, by ratio, and the choice made.

    Each entry shows the choice: k·j with the letter of the folding scheme, or the number of
    filters that stay. The entry of an unchanged layer is empty. The first repeat is shown.

    Returns:
        The picture, or None if no run changed a layer.
    """
    points = results.of(method, retrain_epochs)
    runs = [(point, point.records[0]) for point in points if point.records]
    names = _names([run for _, run in runs])
    if not names:
        return None
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra

    width = max(WIDTH, 2.9 + _CELL * len(points))
    figure = Figure(
        figsize=(width, max(_LEAST_HEIGHT, 1.3 + ROW * len(names))), layout="constrained"
    )
    axes = figure.subplots()
    shares = [[_share(point, name) for point in points] for name in names]
    image = axes.imshow(
        [[float("nan") if share is None else share for share in row] for row in shares],
        cmap="cividis",
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_facecolor("#E0E0E0")
    _annotate(axes, points, names)
    axes.set_xticks(range(len(points)), [_ratio(point) for point in points])
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.tick_params(length=0, labelsize=6)
    axes.tick_params(axis="x", labelsize=7)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks([column + 0.5 for column in range(len(points) - 1)], minor=True)
    axes.set_yticks([row + 0.5 for row in range(len(names) - 1)], minor=True)
    axes.grid(visible=True, which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("ratio asked for")
    axes.set_title(f"{visible(method)}: {_key([run for _, run in runs])}", loc="left")
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 3.0 / (ROW * len(names))), pad=0.01)
    bar.set_label("fraction of parameters that stays")
    bar.outline.set_visible(False)
    return figure


def _names(runs: list[SweepRecord]) -> list[str]:
    """Return the layers that some run changes, in the order of the network."""
    order: dict[str, bool] = {}
    for run in runs:
        for layer in run.layers:
            order[layer.name] = order.get(layer.name, False) or _changed(layer)
    return [name for name, changed in order.items() if changed]


def _changed(layer: LayerReport) -> bool:
    return (
        layer.choice is not None
        or layer.kept is not None
        or layer.params_after != layer.params_before
    )


def _layer(point: Point, name: str) -> LayerReport | None:
    if not point.records:
        return None
    return next((layer for layer in point.records[0].layers if layer.name == name), None)


def _share(point: Point, name: str) -> float | None:
    layer = _layer(point, name)
    return None if layer is None else layer.params_after / layer.params_before


def _annotate(axes: Axes, points: tuple[Point, ...], names: list[str]) -> None:
    for column, point in enumerate(points):
        if not point.records:
            axes.text(
                column,
                (len(names) - 1) / 2,
                "not reached",
                rotation=90,
                ha="center",
                va="center",
                fontsize=6,
                color="#404040",
            )
        for row, name in enumerate(names):
            layer = _layer(point, name)
            if layer is not None and (text := entry(layer)):
                bright = layer.params_after / layer.params_before > 0.5
                axes.text(
                    column,
                    row,
                    text,
                    ha="center",
                    va="center_baseline",
                    fontsize=5,
                    color="black" if bright else "white",
                    in_layout=False,  # it lies within the axes, and there are hundreds
                )


def entry(layer: LayerReport) -> str:
    """Return what became of a layer in the fewest signs."""
    choice = layer.choice
    if choice is not None:
        sign = SCHEMES[choice.scheme].sign
        return f"{choice.k}·{choice.j}" + (f" {sign}" if sign else "")
    if layer.kept is not None and layer.kept.outputs is not None:
        return str(len(layer.kept.outputs))
    if layer.kept is not None and layer.kept.inputs is not None:
        return f"({len(layer.kept.inputs)})"
    return ""


def _key(runs: list[SweepRecord]) -> str:
    """Explain the kinds of entries that occur."""
    layers = [layer for run in runs for layer in run.layers]
    schemes = sorted({layer.choice.scheme for layer in layers if layer.choice is not None})
    parts = []
    if schemes:
        parts.append("k·j")
        parts += [f"{SCHEMES[scheme].sign} {SCHEMES[scheme].name}" for scheme in schemes if scheme]
    if any(layer.kept is not None for layer in layers):
        parts.append("filters that stay (inputs, where only those change)")
    return ", ".join([*parts, "empty: as before"])


def _ratio(point: Point) -> str:
    return f"{float(Fraction(point.ratio)):.3g}"


def shortened(name: str) -> str:
    """Return a layer's name, or the end of a long one."""
    name = visible(name)
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
