"""The style of all pictures: fit for print and for the colour-blind, with reproducible bytes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alds_cli.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.0
"""Width of a picture in inches: that of a page with two columns."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#56B4E9", "#E69F00")
"""The palette of Okabe and Ito without its yellow, which is hard to see on paper."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (1.2, 1.2), (6, 1.5, 1.2, 1.5))

_SETTINGS: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that all machines draw alike
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "grid.linewidth": 0.4,
    "grid.color": "#D0D0D0",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "text.parse_math": False,  # a name may contain dollar signs
    "svg.hashsalt": "alds",
    "svg.fonttype": "path",
}


@dataclass(frozen=True, slots=True)
class Line:
    """The look of one method's line: colour, marker (filled with `fill`) and dashes."""

    colour: str
    marker: str
    fill: str
    dashes: tuple[float, ...]


def line_of(number: int) -> Line:
    """Return the look of the `number`-th method.

    Any two of the first 49 methods differ in the marker's shape or colour.
    """
    turn, place = divmod(number, len(_COLOURS))
    colour = _COLOURS[place]
    return Line(
        colour,
        _MARKERS[(number + 3 * turn) % len(_MARKERS)],
        "white" if turn % 2 else colour,
        _DASHES[number % len(_DASHES)],
    )


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the settings for pictures, whatever the user's are, and restore the user's afterwards.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise MissingExtraError("drawing pictures", "plots") from error
    with mpl.rc_context(), warnings.catch_warnings():
        # These warn of characters that the font lacks; a box is drawn in their place.
        warnings.filterwarnings("ignore", message="Glyph ")
        settings: Any = {
            key: value for key, value in mpl.rcParamsDefault.items() if "backend" not in key
        } | dict(_SETTINGS)
        mpl.rcParams.update(settings)
        yield


_METADATA: Mapping[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def rendered(figure: Figure, kinds: Sequence[str] = ("png", "svg")) -> dict[str, bytes]:
    """Return a picture's bytes by file type, without dates and program names."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is done, and holds for both types
    found = {}
    for kind in kinds:
        sink = io.BytesIO()
        figure.savefig(sink, format=kind, metadata=_METADATA[kind])
        found[kind] = sink.getvalue()
    return found


def file_name(text: str) -> str:
    """Replace all but letters, digits and a few signs safe in file systems and in Markdown."""
    return re.sub(r"[^A-Za-z0-9.+=-]", "_", text).lstrip(".")


def percent(value: float) -> str:
    """Format a number on an axis, with a true minus sign."""
    return f"{value:g}".replace("-", "−")
