"""Planning within budgets, and carrying a plan out."""

from alds_cli.compression.budgets import Budget, Offered, broken, too_slow
from alds_cli.compression.decomposition import carry_out, weight_types
from alds_cli.compression.filter_removal import (
    carry_out_pruning,
    pruning_reports,
    require_removable,
)
from alds_cli.compression.planning import plan_within, require_able, settled_names
from alds_cli.compression.pruning import prunable_channels, prune_within
from alds_cli.compression.pruning_costs import pruned_amount
from alds_cli.compression.quantities import COUNTS, SIZES, TIMES, parse_quantity, parse_ratio
from alds_cli.compression.reporting import layer_reports
from alds_cli.compression.resources import (
    Resource,
    file_bytes,
    multiply_accumulates,
    nanoseconds,
    parameters,
)
from alds_cli.compression.selection import select_layers

__all__ = [
    "COUNTS",
    "SIZES",
    "TIMES",
    "Budget",
    "Offered",
    "Resource",
    "broken",
    "carry_out",
    "carry_out_pruning",
    "file_bytes",
    "layer_reports",
    "multiply_accumulates",
    "nanoseconds",
    "parameters",
    "parse_quantity",
    "parse_ratio",
    "plan_within",
    "prunable_channels",
    "prune_within",
    "pruned_amount",
    "pruning_reports",
    "require_able",
    "require_removable",
    "select_layers",
    "settled_names",
    "too_slow",
    "weight_types",
]
