"""Building a network for its names and shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_ALLOCATORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})


class SkeletonMode(TorchFunctionMode):
    """Within it, parameters come to be on the meta device: no memory, no initialisation.

    Only the functions that allocate parameters are redirected. `torch.device("meta")`
    would take `torch.arange` and its like along, with which some constructors (RegNet,
    stochastic depth) compute widths and rates that they need as numbers.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - the hook's own signature
        """Send the call of `func` to the meta device if it allocates."""
        del types
        keywords = dict(kwargs or {})
        if func in _ALLOCATORS and keywords.get("device") is None:
            keywords["device"] = "meta"
        return func(*args, **keywords)
