"""Entries of a state dict that belong to no layer of the network."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

BOOKKEEPING = frozenset(
    {
        "_extra_state",
        "_float_tensor",
        "attn_mask",
        "inv_freq",
        "initted",
        "masked_bias",
        "n_averaged",
        "num_batches_tracked",
        "num_updates",
        "position_ids",
        "relative_coords_table",
        "relative_position_index",
        "token_type_ids",
        "total_ops",
        "total_params",
    }
)
"""Last components of entries that follow from the network, or count something beside it."""

_OF_TRAINING = re.compile(
    r"(?:^|_)(?:loss|losses|criterion|criterions|criteria|metric|metrics|acc|accuracy|auroc|"
    r"confmat|optimizer|scheduler|ema_decay)(?:$|_|\d)",
    re.IGNORECASE,
)
"""A component that says it is about the training."""

_OF_LAYERS = re.compile(
    r"(?:weight|bias|gamma|beta|scale|shift|running_mean|running_var|mean|std|(?:weight|bias)_.*)$"
)
"""The last component of an entry that some layer computes with."""

_MOST_SMALL = 16
"""Entries of no known meaning that are left out at most."""


def unexplained(
    left: Mapping[str, Tensor], relative: Mapping[str, str], own: Collection[str]
) -> list[str]:
    """Those of the entries that a network does not have which may be a layer's.

    An entry is explained, and may be left out, if

    - its last component is a word of bookkeeping (`position_ids`, `total_ops`,
      `n_averaged`, …), or it holds truth values;
    - or no part of the network has the name it begins with, and either a component of its
      name is about training (`criterion`, `loss_fn`, `val_acc`, …), or it holds whole numbers
      or no more than one dimension and is not named as layers name what they compute with
      (`weight`, `bias`, `running_mean`, …). Of these last, sixteen at most.

    Everything else may be weights, and weights that a network does not have are a sign that
    it is another one.

    Args:
        left: the entries, by their names in the file.
        relative: their names from where the network begins, where they stand below that.
        own: first components of the network's names.
    """
    doubtful: list[str] = []
    small: list[str] = []
    for name, tensor in left.items():
        parts = relative.get(name, name).split(".")
        if _is_bookkeeping(parts, tensor):
            continue
        if parts[0] in own:
            doubtful.append(name)
        elif not any(_OF_TRAINING.search(part) for part in parts):
            (doubtful if _may_be_a_layers(parts, tensor) else small).append(name)
    return doubtful if len(small) <= _MOST_SMALL else doubtful + small


def is_bookkeeping(name: str, tensor: Tensor) -> bool:
    """Whether an entry is none of weights, whatever network it stands in."""
    return _is_bookkeeping(name.split("."), tensor)


def is_training(name: str) -> bool:
    """Whether an entry's name says that it is about the training."""
    return any(_OF_TRAINING.search(part) for part in name.split("."))


def patterns(names: Iterable[str]) -> list[str]:
    """What `--ignore` would take to leave entries out: one pattern for each first component."""
    return list(
        dict.fromkeys(f"{name.partition('.')[0]}.*" if "." in name else name for name in names)
    )


def _is_bookkeeping(parts: list[str], tensor: Tensor) -> bool:
    return parts[-1] in BOOKKEEPING or str(tensor.dtype) == "torch.bool"


def _may_be_a_layers(parts: list[str], tensor: Tensor) -> bool:
    if _OF_LAYERS.match(parts[-1]):
        return True
    return tensor.ndim > 1 and (tensor.is_floating_point() or tensor.is_complex())
