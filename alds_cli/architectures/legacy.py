"""Names that torchvision's published files use and its networks no longer have.

torchvision renames these while it loads its own files; a file opened directly still
has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from alds_cli.records import Architecture

# DenseNet of 2017: `denselayer1.norm.1.weight`, today `denselayer1.norm1.weight`.
_DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")
# Vision transformers of 2021: `mlp.linear_1` and `mlp.linear_2`, today a sequence of
# linear, activation, dropout, linear.
_TRANSFORMER_MLP = re.compile(r"^(.*encoder_layer_\d+\.mlp)\.linear_([12])\.(weight|bias)$")


def current_names(architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
    """Map each entry name of a checkpoint of `architecture` to the name it has today.

    Rename the tensors with it before they are compared with the network or loaded into
    it. Names of timm's networks and of a `module:factory` map to themselves.
    """
    return {name: name for name in names} if ":" in architecture.name else renamed(names)


def renamed(names: Iterable[str]) -> dict[str, str]:
    """Map names to today's, or all to themselves where old and new ones would collide."""
    mapping = {name: _current(name) for name in names}
    if len(set(mapping.values())) < len(mapping):
        return {name: name for name in mapping}
    return mapping


def _current(name: str) -> str:
    if found := _DENSE_LAYER.match(name):
        return f"{found[1]}{found[2]}"
    if found := _TRANSFORMER_MLP.match(name):
        return f"{found[1]}.{3 * (int(found[2]) - 1)}.{found[3]}"
    return name
