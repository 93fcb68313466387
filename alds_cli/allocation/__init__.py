"""The optimisers that allocate budgets to layers: pure functions over option tables."""

from alds_cli.allocation.alternating import alternating
from alds_cli.allocation.knapsack.solve import knapsack
from alds_cli.allocation.layer_options import (
    DEFAULT_DEFINITION,
    ERROR_DEFINITIONS,
    Allocation,
    InfeasibleError,
    LayerOptions,
    exactly_known,
)
from alds_cli.allocation.lazy_errors import refined
from alds_cli.allocation.problem import (
    PROVEN_BOUNDS,
    Prices,
    Problem,
    RankPrices,
    Refine,
    Spending,
    error_bound,
    layer_options,
    minimax,
    operator_bound,
    rounding_of_factors,
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
    "operator_bound",
    "refined",
    "rounding_of_factors",
    "smallest_cost",
]
