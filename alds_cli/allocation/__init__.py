"""The optimisers: pure functions over option tables."""

from alds_cli.allocation.alternating import alternating
from alds_cli.allocation.knapsack.solve import knapsack
from alds_cli.allocation.layer_options import Allocation, InfeasibleError, LayerOptions
from alds_cli.allocation.lazy_errors import refined
from alds_cli.allocation.minimax import minimax
from alds_cli.allocation.problem import (
    DEFAULT_DEFINITION,
    ERROR_DEFINITIONS,
    PROVEN_BOUNDS,
    Prices,
    Problem,
    RankPrices,
    Refine,
    Spending,
    error_bound,
    exactly_known,
    layer_options,
    smallest_cost,
)

__all__ = [
    "DEFAULT_DEFINITION",
    "ERROR_DEFINITIONS",
    "PROVEN_BOUNDS",
    "Allocation",
    "InfeasibleError",
    "LayerOptions",
    "Prices",
    "Problem",
    "RankPrices",
    "Refine",
    "Spending",
    "alternating",
    "error_bound",
    "exactly_known",
    "knapsack",
    "layer_options",
    "minimax",
    "refined",
    "smallest_cost",
]
