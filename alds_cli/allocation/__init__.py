"""The optimisers: pure functions over option tables."""

from alds_cli.allocation.alternating import alternating
from alds_cli.allocation.definitions import (
    DEFAULT_DEFINITION,
    ERROR_DEFINITIONS,
    PROVEN_BOUNDS,
    error_bound,
)
from alds_cli.allocation.minimax import minimax
from alds_cli.allocation.options import LayerOptions, Prices, layer_options, smallest_cost

__all__ = [
    "DEFAULT_DEFINITION",
    "ERROR_DEFINITIONS",
    "PROVEN_BOUNDS",
    "LayerOptions",
    "Prices",
    "alternating",
    "error_bound",
    "layer_options",
    "minimax",
    "smallest_cost",
]
