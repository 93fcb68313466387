"""The optimisers: pure functions over option tables."""

from alds_cli.allocation.alternating import alternating
from alds_cli.allocation.minimax import minimax
from alds_cli.allocation.options import (
    DEFAULT_DEFINITION,
    ERROR_DEFINITIONS,
    PROVEN_BOUNDS,
    LayerOptions,
    error_bounds,
    layer_options,
    smallest_cost,
)

__all__ = [
    "DEFAULT_DEFINITION",
    "ERROR_DEFINITIONS",
    "PROVEN_BOUNDS",
    "LayerOptions",
    "alternating",
    "error_bounds",
    "layer_options",
    "minimax",
    "smallest_cost",
]
