"""A network's tensors while it trains, and the seeds of what a training draws."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alds_cli.errors import DataError

_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """A network's tensors while it trains.

    Attributes:
        device: where the network trains.
        homes: each tensor with its original device, dtype and `requires_grad`.
        infinite: indices of tensors with NaN or infinities from the start, such as masks.
    """

    device: torch.device
    homes: Sequence[tuple[Tensor, torch.device, torch.dtype, bool]]
    infinite: Collection[int]

    def finite(self) -> bool:
        """Return whether all tensors are finite in their original dtype, except `infinite`."""
        return all(
            index in self.infinite or _is_finite(tensor.data.to(dtype))
            for index, (tensor, _, dtype, _) in enumerate(self.homes)
        )

    @contextmanager
    def rounded(self) -> Iterator[None]:
        """Round the tensors to their original dtype in this context, as they are when cast back."""
        widened = [(tensor, tensor.data, dtype) for tensor, _, dtype, _ in self.homes]
        try:
            for tensor, wide, dtype in widened:
                if wide.dtype != dtype:
                    tensor.data = wide.to(dtype).to(wide.dtype)
            yield
        finally:
            for tensor, wide, _ in widened:
                tensor.data = wide


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


@contextmanager
def master_weights(module: nn.Module, device: torch.device | None) -> Iterator[HeldWeights]:
    """Move the network to `device`, trainable and in float32 at least; restore it afterwards."""
    tensors = [*module.parameters(), *module.buffers()]
    place = device or (tensors[0].device if tensors else torch.device("cpu"))
    homes = [(tensor, tensor.device, tensor.dtype, tensor.requires_grad) for tensor in tensors]
    if not any(parameter.is_floating_point() for parameter in module.parameters()):
        raise DataError("the network has no parameters to train", tip="name another checkpoint")
    infinite = [index for index, tensor in enumerate(tensors) if not _is_finite(tensor.data)]
    try:
        for tensor, _, dtype, _ in homes:
            tensor.data = tensor.data.to(place, torch.float32 if dtype in _HALVES else dtype)
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        yield HeldWeights(place, homes, infinite)
    finally:
        for tensor, home, dtype, trainable in homes:
            tensor.grad = None
            tensor.requires_grad_(trainable)
            tensor.data = tensor.data.to(home, dtype)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which dropout draws from, and restore them afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def derived_seed(seed: int, epoch: int, purpose: str) -> int:
    """Derive a seed of 63 bits that differs for every seed, epoch and purpose."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
