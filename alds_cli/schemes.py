"""The schemes by which plans and artefacts say how a layer's weight becomes a matrix and a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Scheme:
    """A folding scheme: which kernel axes join the output channels in the rows.

    Attributes:
        name: in a word.
        row_axes: None means all of them.
        dimensions: of the kernels that it folds; None allows any.
        sliced: whether the k parts are slices of neighbouring channels. Error tables know of no
            other parts.
        label: what a report calls it beside k and j; empty for the usual scheme.
        sign: the same in a letter, for figures.
    """

    name: str
    row_axes: tuple[int, ...] | None
    dimensions: int | None = None
    sliced: bool = True
    label: str = ""
    sign: str = ""


OPERATOR = 0
"""The scheme of the paper: its matrix maps the patches that a layer sees to what the layer gives,
so that the matrix's norm is the layer's own."""

CLUSTERED = 4
"""The scheme that folds as 0 does, but gathers the columns into k clusters of any size."""

SCHEMES: Mapping[int, Scheme] = MappingProxyType(
    {
        OPERATOR: Scheme("encode", ()),
        1: Scheme("split-height", (0,), dimensions=2, label="scheme 1", sign="h"),
        2: Scheme("split-width", (1,), dimensions=2, label="scheme 2", sign="w"),
        3: Scheme("decode", None, label="scheme 3", sign="d"),
        CLUSTERED: Scheme("cluster", (), sliced=False, label="clustered", sign="c"),
    }
)

SLICED = tuple(number for number, scheme in SCHEMES.items() if scheme.sliced)
"""The schemes whose channels are sliced, and that error tables cover."""
