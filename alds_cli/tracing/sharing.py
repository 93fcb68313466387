"""Tensors that a network holds under several names, and how they remain one tensor."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

Groups = Sequence[tuple[str, ...]]
"""The names of one tensor each, in the network's order."""


def shared_groups(network: nn.Module) -> list[tuple[str, ...]]:
    """Return the names that stand for one parameter or one buffer, in groups of two or more.

    A module that is registered twice, a parameter that two modules hold, and two parameters that
    are the whole of the same memory are shared. A part of another tensor's memory, or the same
    memory in another shape, is a tensor of its own.
    """
    names: dict[Hashable, list[str]] = {}
    for name, tensor in _named(network):
        names.setdefault((isinstance(tensor, nn.Parameter), identity(tensor)), []).append(name)
    return [tuple(group) for group in names.values() if len(group) > 1]


def identity(tensor: Tensor) -> Hashable:
    """Return a key that is equal for tensors with the same numbers in the same memory."""
    if tensor.layout is not torch.strided or tensor.numel() == 0:
        return id(tensor)
    try:
        # The meta device has no addresses, but it has storages.
        storage = tensor.untyped_storage()._cdata  # noqa: SLF001
    except (RuntimeError, NotImplementedError, ValueError):  # there is no storage (yet)
        return id(tensor)
    return (
        storage,
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        # A view of a complex tensor's memory may differ from it in this alone.
        tensor.is_conj() or tensor.is_neg(),
    )


def share(network: nn.Module, groups: Iterable[Sequence[str]]) -> None:
    """Put the tensor of every group's first name under its other names, in place."""
    for first, *others in groups:
        tensor = _at(network, first)
        for name in others:
            owner, _, attribute = name.rpartition(".")
            holder = network.get_submodule(owner)
            if getattr(holder, attribute) is not tensor:
                setattr(holder, attribute, tensor)


def _at(network: nn.Module, name: str) -> Tensor:
    owner, _, attribute = name.rpartition(".")
    found: Tensor = getattr(network.get_submodule(owner), attribute)
    return found


def _named(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(
        network.named_parameters(remove_duplicate=False),
        network.named_buffers(remove_duplicate=False),
    )
