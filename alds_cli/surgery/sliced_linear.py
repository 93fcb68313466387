"""The first half of a linear layer's pair with several slices.

No `torch.nn` module multiplies every slice of the last axis by a matrix of its own: a grouped
convolution wants its channels in the second axis, where sequences have their positions, and is
slower where both can be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class SlicedLinear(nn.Module):
    """A linear layer without a bias whose matrix is block diagonal, one block for each slice.

    Its state is `weight` (k·j, in / k), the blocks of the k slices one below another.

    Args:
        in_features: a multiple of k.
        slices: k.
        rank: j, the features that each slice becomes.
        device: of the weight.
        dtype: of the weight.
    """

    def __init__(
        self,
        in_features: int,
        slices: int,
        rank: int,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.slices = slices
        self.rank = rank
        shape = (slices * rank, in_features // slices)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=shape[1] ** -0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (…, in) to (…, k·j), those of the first slice first."""
        parts = torch.unflatten(features, -1, [self.slices, self.in_features // self.slices])
        blocks = torch.unflatten(self.weight, 0, [self.slices, self.rank])
        return torch.einsum("...kc,kjc->...kj", parts, blocks).flatten(-2)

    def extra_repr(self) -> str:
        """Return the text that `print` shows in the module."""
        return f"in_features={self.in_features}, slices={self.slices}, rank={self.rank}"


def current_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an artefact's tensors in the shapes that the modules of this version have.

    In the first artefacts a convolution of length one stood where a `SlicedLinear` does now, and
    its weight is (k·j, in / k, 1).

    Args:
        network: the network that the tensors are meant for.
        tensors: its state dict, maybe of an earlier version.
    """
    current = dict(tensors)
    for name, part in network.named_modules():
        own = current.get(key := f"{name}.weight")
        if isinstance(part, SlicedLinear) and own is not None and own.ndim == 3:
            current[key] = own.squeeze(-1)
    return current
