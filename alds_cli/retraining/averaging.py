"""An exponential moving average of a network's weights.

Source: Polyak, Juditsky, SIAM J. Control Optim. 1992, in the exponential form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alds_cli.retraining.held_weights import HeldWeights


class WeightAverage:
    """The moving average of floating-point parameters and statistics, beside the network's own.

    What is not finite from the start, such as a mask, and whole numbers, such as counts of batches,
    stay the network's own.

    Args:
        module: the network, on its device; the average begins with its values.
        held: its tensors while it trains.
        kept: the share of the old average in the new one, in [0, 1).
    """

    def __init__(self, module: nn.Module, held: HeldWeights, kept: float) -> None:
        infinite = {id(held.homes[index][0]) for index in held.infinite}
        self._own: Sequence[Tensor] = [
            tensor
            for tensor in [*module.parameters(), *module.buffers()]
            if tensor.is_floating_point() and id(tensor) not in infinite
        ]
        self._averages = [tensor.detach().clone() for tensor in self._own]
        self._kept = kept

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's present values into the average."""
        for average, own in zip(self._averages, self._own, strict=True):
            average.lerp_(own, 1 - self._kept)

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Let the network have the averages as its values in this context."""
        own = [tensor.data for tensor in self._own]
        try:
            for tensor, average in zip(self._own, self._averages, strict=True):
                tensor.data = average
            yield
        finally:
            for tensor, data in zip(self._own, own, strict=True):
                tensor.data = data

    @torch.no_grad()
    def settle(self) -> None:
        """Give the network the averages as its values for good."""
        for tensor, average in zip(self._own, self._averages, strict=True):
            tensor.copy_(average)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The averages, in the order of the network's parameters and buffers."""
        return self._averages

    @torch.no_grad()
    def restore(self, averages: Sequence[Tensor]) -> None:
        """Take up averages that `tensors` gave once."""
        for average, found in zip(self._averages, averages, strict=True):
            average.copy_(found)
