"""Tensors that a network holds under several names, and how they stay one and the same."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

Groups = Sequence[tuple[str, ...]]
"""Names of one tensor each, in the network's order."""


def shared_groups(network: nn.Module) -> list[tuple[str, ...]]:
    """Names that stand for one parameter or one buffer, in groups of two or more.

    A module that is registered twice, a parameter that two modules hold, and two parameters
    that are the whole of the same memory are shared. A part of another's memory, or the same
    memory in another shape, is a tensor of its own.
    """
    names: dict[Hashable, list[str]] = {}
    for name, tensor in _named(network):
        names.setdefault((isinstance(tensor, nn.Parameter), identity(tensor)), []).append(name)
    return [tuple(group) for group in names.values() if len(group) > 1]


def identity(tensor: Tensor) -> Hashable:
    """Equal for tensors that are the same numbers in the same memory, on any device."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return id(tensor)
    try:
        # There are no addresses on the meta device, but storages there are.
        storage = tensor.untyped_storage()._cdata  # noqa: SLF001
    except (RuntimeError, NotImplementedError, ValueError):  # it has no storage yet, or none at all
        return id(tensor)
    return (
        storage,
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        # A view of a complex tensor's memory may only look like it.
        tensor.is_conj() or tensor.is_neg(),
    )


def share(network: nn.Module, groups: Iterable[Sequence[str]]) -> None:
    """Put the tensor of every group's first name under its other names, in place."""
    for first, *others in groups:
        tensor = _at(network, first)
        for name in others:
            owner, _, own = name.rpartition(".")
            holder = network.get_submodule(owner)
            if getattr(holder, own) is not tensor:
                setattr(holder, own, tensor)


def _at(network: nn.Module, name: str) -> Tensor:
    owner, _, own = name.rpartition(".")
    found: Tensor = getattr(network.get_submodule(owner), own)
    return found


def _named(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(
        network.named_parameters(remove_duplicate=False),
        network.named_buffers(remove_duplicate=False),
    )
