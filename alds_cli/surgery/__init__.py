"""Turning a network and a plan into a network of plain `torch.nn` modules.

Only three things become modules of this package, because no `torch.nn` module does the same: an
`nn.MultiheadAttention` with a pair in it, the first half of a linear layer's pair with several
slices, and that of a pair of clustered columns.
"""

from alds_cli.surgery.attention import PairedAttention
from alds_cli.surgery.clustered import ClusteredConv2d, ClusteredLinear
from alds_cli.surgery.layer_contents import (
    bias_of,
    layer_at,
    layer_weight,
    weight_at,
)
from alds_cli.surgery.layers import find_layers
from alds_cli.surgery.pairs import form_of, make_pair
from alds_cli.surgery.pruning import dense_pruned_state, prune_network
from alds_cli.surgery.replace import (
    dense_copy,
    dense_state,
    install_pair,
    put_at,
    require_fitting,
    reshape_network,
)
from alds_cli.surgery.sliced_linear import SlicedLinear, current_tensors
from alds_cli.surgery.weight_norms import (
    current_norm_names,
    detach_computed,
    fold_absent_norms,
    fold_norms,
)

__all__ = [
    "ClusteredConv2d",
    "ClusteredLinear",
    "PairedAttention",
    "SlicedLinear",
    "bias_of",
    "current_norm_names",
    "current_tensors",
    "dense_copy",
    "dense_pruned_state",
    "dense_state",
    "detach_computed",
    "find_layers",
    "fold_absent_norms",
    "fold_norms",
    "form_of",
    "install_pair",
    "layer_at",
    "layer_weight",
    "make_pair",
    "prune_network",
    "put_at",
    "require_fitting",
    "reshape_network",
    "weight_at",
]
