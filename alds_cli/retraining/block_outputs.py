"""The outputs of blocks inside two networks, and how much they differ.

A block is what stands around a decomposed layer: the smallest module that holds it and is called,
such as a residual block or an attention, but not the whole network. A chain (`nn.Sequential`) is
cut before each of its decomposed layers, and every piece is a block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.network.observed_outputs import tensors_in
from alds_cli.tracing.tokens import Inputs, without_padding

_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict)


def block_names(network: nn.Module, layers: Collection[str]) -> list[str]:
    """Return the names of the modules that end the blocks around some layers, without repeats.

    Args:
        network: the network before or after the layers became pairs.
        layers: dotted names of layers. What stands around a projection of an attention is the
            attention.
    """
    found = {_end_of_block(network, name, layers) for name in layers}
    return [name for name, _ in network.named_modules() if name and name in found]


def _end_of_block(network: nn.Module, layer: str, layers: Collection[str]) -> str:
    """Return the name of the module that ends a layer's block; empty for the whole network."""
    owner, _, leaf = layer.rpartition(".")
    around = network.get_submodule(owner)
    if isinstance(around, nn.Sequential):
        prefix = f"{owner}." if owner else ""
        children = [name for name, _ in around.named_children()]
        for last, following in zip(
            children[children.index(leaf) :], children[children.index(leaf) + 1 :], strict=False
        ):
            if prefix + following in layers:
                return prefix + last
    while isinstance(around, _NEVER_CALLED):
        owner = owner.rpartition(".")[0]
        around = network.get_submodule(owner)
    return owner


class BlockOutputs:
    """Compares the blocks of a network with those of another, in pairs of forward passes.

    Each call of a block gives the mean square of the difference of its outputs, relative to the
    mean square of the expected ones, over the whole batch without padding; a call whose expected
    outputs are all 0, or not finite, gives none. If it returns several tensors, the first of real
    numbers counts.

    Args:
        names: the blocks, as `block_names` gives them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._expected: dict[str, list[Tensor | None]] = {}
        self._errors: list[Tensor] = []
        self.inputs: Inputs | None = None
        """The batch that the networks are called with, by which padding is found."""

    @contextmanager
    def watching(self, expected: nn.Module, network: nn.Module) -> Iterator[None]:
        """Watch both networks in this context."""
        with ExitStack() as stack:
            for module, hook in ((expected, self._keep), (network, self._compare)):
                parts = dict(module.named_modules())
                for name in self._names:
                    if name in parts:  # a part of several names is listed under the first
                        handle = parts[name].register_forward_hook(self._named(name, hook))
                        stack.callback(handle.remove)
            yield

    def error(self) -> Tensor | None:
        """Return the mean error of the blocks of the last two passes; None if none was called.

        Call it after a pass of the expected network and one of the other.
        """
        errors, self._errors = self._errors, []
        self._expected = {}
        return torch.stack(errors).mean() if errors else None

    def _named(self, name: str, hook: Any) -> Any:
        def leave(module: nn.Module, _given: object, output: object) -> None:
            tensor = _first_real(output)
            if tensor is not None and self.inputs is not None:
                tensor = without_padding(tensor, module, self.inputs)
            hook(name, tensor)

        return leave

    def _keep(self, name: str, tensor: Tensor | None) -> None:
        kept = None if tensor is None else tensor.detach().clone()  # it may be changed in place
        self._expected.setdefault(name, []).append(kept)

    def _compare(self, name: str, tensor: Tensor | None) -> None:
        waiting = self._expected.get(name)
        wanted = waiting.pop(0) if waiting else None
        if wanted is None or tensor is None or tensor.shape != wanted.shape:
            return
        scale = wanted.float().square().mean()
        if 0 < scale < torch.inf:
            self._errors.append((tensor - wanted).float().square().mean() / scale)


def _first_real(output: object) -> Tensor | None:
    """Return the first dense tensor of real numbers in a module's output."""
    return next(
        (
            tensor
            for tensor in tensors_in(output)
            if tensor.is_floating_point() and tensor.layout == torch.strided
        ),
        None,
    )
