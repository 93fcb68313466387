"""The check that a pruned network computes what the dense one does with its channels muted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.hooks import RemovableHandle

from alds_cli.errors import PlanError, first_line
from alds_cli.records import Kept
from alds_cli.tracing.trace import evaluation_mode

_SEED = 0


@contextmanager
def same_function(
    network: nn.Module, pruned: Mapping[str, Kept], input_shape: tuple[int, ...]
) -> Iterator[None]:
    """Make sure that the block removes these channels from a network and changes nothing else.

    Before the block, the network is run on random numbers with the channels muted: every layer
    that reads them gets zeros instead. What lies between a filter and those layers, such as a
    shift or an activation that maps zero to something else, therefore does not matter. After the
    block the outputs must be the same, up to the square root of the numbers' precision.

    Args:
        network: the network, which the block prunes.
        pruned: what stays of its modules.
        input_shape: the shape of one sample.

    Raises:
        PlanError: the network computes something else, or does not run, before or afterwards.
    """
    tensor = next((p for p in network.parameters() if p.is_floating_point()), None)
    like = torch.empty(0) if tensor is None else tensor
    generator = torch.Generator().manual_seed(_SEED)
    image = torch.randn((1, *input_shape), generator=generator).to(like.device, like.dtype)
    with ExitStack() as stack:
        for handle in _mute(network, pruned):
            stack.callback(handle.remove)
        expected = _outputs(network, image, "the network")
    yield
    found = _outputs(network, image, "the network without its filters")
    if len(found) != len(expected) or not all(map(_close, found, expected)):
        raise PlanError(
            "the network without its filters computes something else than with zeros in their "
            "place: its code does more than could be seen",
            tip="choose a method that decomposes layers: --method alds",
        )


def _mute(network: nn.Module, pruned: Mapping[str, Kept]) -> Iterator[RemovableHandle]:
    """Register hooks that give zeros to the layers that lose inputs, and yield their handles."""
    for name, kept in pruned.items():
        if kept.inputs is not None:
            module = network.get_submodule(name)
            axis = -1 if isinstance(module, nn.Linear) else 1
            yield module.register_forward_pre_hook(_muting(axis, kept.inputs))


def _muting(axis: int, indices: tuple[int, ...]) -> Any:
    def mute(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (given,) = args
        mask = torch.zeros(given.shape[axis], dtype=torch.bool, device=given.device)
        mask[list(indices)] = True
        shape = [1] * given.ndim
        shape[axis] = -1
        # Not a product, because muted values may be infinite.
        return (given.where(mask.view(shape), torch.zeros_like(given)),)

    return mute


def _outputs(network: nn.Module, image: Tensor, named: str) -> list[Tensor]:
    try:
        with torch.no_grad(), evaluation_mode(network):
            made = network(image)
    except Exception as error:
        raise PlanError(
            f"{named} does not run on an input of shape {tuple(image.shape)}: {first_line(error)}"
        ) from error
    return [part for part in tree_flatten(made)[0] if isinstance(part, Tensor)]


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return True
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
