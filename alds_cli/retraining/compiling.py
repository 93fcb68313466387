"""Networks that PyTorch's compiler makes faster for batches of one size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from alds_cli.errors import OptionError, first_line


class CompiledNetwork(nn.Module):
    """A network whose full batches run as compiled code; all others run as they did.

    Each size of batches would be compiled anew, and an epoch has but one batch that is smaller.
    On a GPU the kernels of a batch are started together, as one graph.

    Args:
        network: it may change between calls in its values, but not where they lie.
        size: the number of images, or of texts, in a full batch. Batches of texts with padding
            differ in length, and are not compiled.
        device: where it computes.
    """

    def __init__(self, network: nn.Module, size: int, device: torch.device) -> None:
        super().__init__()
        self._network, self._size = network, size
        mode = "reduce-overhead" if device.type == "cuda" else "default"  # as one graph
        compiled = torch.compile(network, mode=mode, dynamic=False)
        self._compiled = (compiled,)  # no child beside the network

    def forward(self, inputs: torch.Tensor, **more: torch.Tensor) -> object:
        """Return what the network does.

        Raises:
            OptionError: it cannot be compiled here.
        """
        if len(inputs) != self._size or more:
            return self._network(inputs, **more)
        with _refusals_told():
            return self._compiled[0](inputs)


def new_step(device: torch.device) -> None:
    """Say that what compiled networks gave in the step before is no longer read."""
    if device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


@contextmanager
def compiler() -> Iterator[None]:
    """Leave out the compiler's warnings, which are for its own authors, in this context.

    Afterwards it forgets what it compiled: it would use that for a network of the same form too,
    with the weights at the places where those of the first one were.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")
        try:
            yield
        finally:
            torch.compiler.reset()


@contextmanager
def _refusals_told() -> Iterator[None]:
    """Turn what the compiler refuses into an `OptionError`."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - slow to import

        if not isinstance(error, TorchDynamoException):
            raise
        raise OptionError(
            f"the network cannot be compiled here: {first_line(error)}",
            tip="leave out --compile",
        ) from error
