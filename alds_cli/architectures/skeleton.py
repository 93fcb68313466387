"""Building a network whose values will come from elsewhere, or are not wanted at all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from alds_cli.numerics.sharing import identity

_ALLOCATORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})

_DRAWS = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_})


class SkeletonMode(TorchFunctionMode):
    """Within it, tensors come to be on the meta device: no memory, no initialisation.

    Only functions that allocate parameters are redirected. `torch.device("meta")` would
    take `torch.arange` and its like along, with which some constructors (RegNet,
    stochastic depth) compute widths and rates that they need as numbers.

    Args:
        keep_values: redirect `torch.empty` alone. Its values are nobody's until they are
            drawn, so it is parameters that are redirected, while buffers and constants
            get theirs. For `materialise`.
    """

    def __init__(self, *, keep_values: bool = False) -> None:
        super().__init__()
        self.keeps_values = keep_values
        self._redirected = frozenset({torch.empty}) if keep_values else _ALLOCATORS

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Send the call of `func` to the meta device if it allocates.

        Drawing numbers for a tensor without memory would do nothing, but import all of
        PyTorch's compiler first.
        """
        del types
        if func in _DRAWS and args[0].is_meta:
            return args[0]
        keywords = dict(kwargs or {})
        if func in self._redirected and keywords.get("device") is None:
            keywords["device"] = "meta"
        return func(*args, **keywords)


def materialise(network: nn.Module) -> None:
    """Give the parameters on the meta device memory on the CPU, with arbitrary values.

    Parameters that modules share stay shared, and those that share all their memory too.

    Raises:
        ValueError: a buffer is on the meta device, so its value is lost.
    """
    lost = [name for name, buffer in network.named_buffers() if buffer.is_meta]
    if lost:
        raise ValueError(f"the values of {', '.join(lost)} were not computed")
    replaced: dict[Hashable, nn.Parameter] = {}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if not parameter.is_meta:
                continue
            own = identity(parameter)
            if own not in replaced:
                memory = torch.empty_like(parameter, device="cpu")
                replaced[own] = nn.Parameter(memory, parameter.requires_grad)
            setattr(module, name, replaced[own])
