"""Batch normalisation over a batch whose parts lie in several processes.

Each process sees a part of a batch. Normalised by its part alone, a network would train as on
smaller batches; with the statistics of all parts it trains as one process on the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.nn import functional as collective
from torch.nn.modules.batchnorm import _BatchNorm

from alds_cli.runtime.distributed import ALONE, world


@contextmanager
def shared_statistics(module: nn.Module) -> Iterator[None]:
    """Let all batch normalisations of a network train on the batch of all processes.

    Names, parameters and buffers of the network stay as they are. A process by itself changes
    nothing.
    """
    changed: list[Any] = []
    if world() != ALONE:
        changed += [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    try:
        for layer in changed:
            layer.forward = _Shared(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward


def _total(values: Tensor) -> Tensor:
    """Return the sum over all processes, through which gradients pass."""
    total: Tensor = collective.all_reduce(values)  # type: ignore[no-untyped-call]
    return total


class _Shared:
    """The forward pass of a batch normalisation, in training over the batch of all processes.

    Args:
        layer: its parameters and buffers are used and updated.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._alone = layer.forward

    def __call__(self, inputs: Tensor) -> Tensor:
        layer = self._layer
        if not layer.training:
            normalised: Tensor = self._alone(inputs)
            return normalised
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        shape = [1, -1] + [1] * (inputs.ndim - 2)
        wide = inputs.float() if inputs.dtype in (torch.float16, torch.bfloat16) else inputs
        own = wide.sum(axes)
        positions = own.new_tensor([inputs.numel() / max(1, inputs.shape[1])])
        total = _total(torch.cat([own, positions]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = wide - mean.view(shape)
        variance = _total(centred.square().sum(axes)) / count
        self._update(mean.detach(), variance.detach(), float(count))
        scaled = centred * torch.rsqrt(variance + layer.eps).view(shape)
        if layer.affine:
            scaled = scaled * layer.weight.view(shape) + layer.bias.view(shape)
        return scaled.to(inputs.dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Update the running statistics, as `torch.nn.BatchNorm2d` does."""
        layer = self._layer
        if layer.running_mean is None:
            return
        with torch.no_grad():
            layer.num_batches_tracked += 1
            share = layer.momentum
            if share is None:
                share = 1 / float(layer.num_batches_tracked)
            layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
            unbiased = variance * (count / max(1.0, count - 1))
            layer.running_var.lerp_(unbiased.to(layer.running_var.dtype), share)
