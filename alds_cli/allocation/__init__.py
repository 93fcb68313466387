"""The optimisers: pure functions over option tables."""

from alds_cli.allocation.alternating import alternating
from alds_cli.allocation.minimax import minimax
from alds_cli.allocation.options import BOUNDS, LayerOptions, layer_options

__all__ = ["BOUNDS", "LayerOptions", "alternating", "layer_options", "minimax"]
