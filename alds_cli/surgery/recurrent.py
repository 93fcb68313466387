"""The matrices of recurrent layers, which are parameters of one module together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
"""LSTM, GRU and RNN, and their cells."""

KEPT_RECURRENT = "recurrent layer: pairs for it are not made"
"""The reason of all its matrices."""

_OF_CELLS = ("weight_ih", "weight_hh")


def recurrent_matrices(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, Any]]:
    """Own name, weight (rows, columns) and bias, or None, of each matrix of a recurrent layer.

    Matrices that are computed from other parameters are passed over.
    """
    names = getattr(module, "_flat_weights_names", _OF_CELLS)
    held = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    for name in names:
        if name.startswith("weight_") and name in held:
            yield name, held[name], held.get(name.replace("weight_", "bias_", 1))
