"""The optimisers that allocate budgets to layers: pure functions over option tables."""

from alds_cli.allocation.alternating import alternating
from alds_cli.allocation.knapsack.solve import knapsack
from alds_cli.allocation.layer_options import Allocation, InfeasibleError, LayerOptions
from alds_cli.allocation.lazy_errors import refined
from alds_cli.allocation.minimax import minimax
from alds_cli.allocation.problem import (
    DEFAULT_DEFINITION,
    ERROR_DEFINITIONS,
    Prices,
    Problem,
    RankPrices,
    Refine,
    Spending,
    exactly_known,
    layer_options,
    smallest_cost,
)
from alds_cli.allocation.proven_bounds import (
    PROVEN_BOUNDS,
    error_bound,
    operator_bound,
    rounding_of_factors,
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
    "operator_bound",
    "refined",
    "rounding_of_factors",
    "smallest_cost",
]
