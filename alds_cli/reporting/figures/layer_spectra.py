"""A picture of all layers of a network: their spectra, the ranks kept, and their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from alds_cli.inspecting.slice_spectra import SliceSpectrum
from alds_cli.records import FloatArray, LayerReport
from alds_cli.reporting.figures.layer_maps import ROW, entry, shortened
from alds_cli.reporting.figures.style import WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_TICKS = (1e-3, 1e-2, 1e-1, 1)

_FLOOR = _TICKS[0]
"""Singular values below this part of the largest have the colour of this part."""


def layer_spectra(layers: Sequence[LayerReport], spectra: Mapping[str, SliceSpectrum]) -> Figure:
    """Draw a row for each layer that has a spectrum.

    On the left are its singular values, as parts of the largest, with a mark where its pair ends;
    on the right is its relative error, where it is known of some layer.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra

    shown = [layer for layer in layers if layer.name in spectra]
    known = any(layer.error is not None for layer in shown)
    height = max(2.6, 1.3 + ROW * len(shown))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    left, *right = figure.subplots(
        1, 2 if known else 1, sharey=True, squeeze=False, width_ratios=(3, 1) if known else None
    )[0]
    colours = _draw_values(left, [spectra[layer.name].values for layer in shown])
    left.set_yticks(range(len(shown)), [shortened(layer.name) for layer in shown])
    left.tick_params(labelsize=6)
    left.set_xlabel("ranks of a slice (%)")
    left.set_title("singular values, and the ranks kept (black): k·j", loc="left")
    for row, layer in enumerate(shown):
        _mark(left, row, layer, spectra[layer.name].kept)
    for axes in right:
        _draw_errors(axes, shown)
    bar = figure.colorbar(colours, ax=left, location="bottom", shrink=0.5, pad=0.02)
    bar.minorticks_off()
    bar.set_ticks(_TICKS, labels=[f"{tick:g}" for tick in _TICKS])
    bar.set_label("part of the largest singular value")
    bar.outline.set_visible(False)
    return figure


def _draw_values(axes: Axes, spectra: Sequence[FloatArray]) -> ScalarMappable:
    """Draw each spectrum across its row, of which every singular value has an equal part.

    Each is an image of its own, so that colours change where the ranks do, to which marks are set.

    Returns:
        The scale of the colours.
    """
    from matplotlib.cm import ScalarMappable  # noqa: PLC0415 - an optional extra
    from matplotlib.colors import LogNorm  # noqa: PLC0415

    norm = LogNorm(_FLOOR, 1)
    scale = ScalarMappable(norm, "cividis")
    for row, values in enumerate(spectra):
        axes.imshow(
            np.maximum(values, _FLOOR)[None],
            cmap=scale.cmap,
            norm=norm,
            aspect="auto",
            interpolation="nearest",
            extent=(0, 100, row + 0.5, row - 0.5),
        )
    axes.set_ylim(len(spectra) - 0.5, -0.5)
    return scale


def _mark(axes: Axes, row: int, layer: LayerReport, kept: float | None) -> None:
    if kept is None:
        return
    axes.plot([100 * kept] * 2, [row - 0.5, row + 0.5], color="black", linewidth=1.5)
    beside = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.6}
    place = min(100 * kept + 1, 88)
    axes.text(place, row, entry(layer), fontsize=5, va="center_baseline", bbox=beside)


def _draw_errors(axes: Axes, layers: Sequence[LayerReport]) -> None:
    """Draw a bar for each error, and words where a bar would not be seen: for 0 and for none."""
    axes.barh(range(len(layers)), [layer.error or 0.0 for layer in layers], color="#0072B2")
    for row, layer in enumerate(layers):
        if not layer.error:
            word = "unknown" if layer.error is None else "0"
            axes.annotate(
                word, (0, row), (2, 0), textcoords="offset points", fontsize=5, va="center_baseline"
            )
    axes.set_xlim(left=0)
    axes.set_xlabel("‖W − Ŵ‖ / ‖W‖")
    axes.set_title("error", loc="left")
    axes.tick_params(axis="y", length=0)
