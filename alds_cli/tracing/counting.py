"""Counting the multiply-accumulates of a small network, sooner than PyTorch's own counter begins.

That one imports Triton and, with the first operator, all of PyTorch's compiler, as many operators
do on the meta device: together this takes as long as importing PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

FLOPS_PER_MAC = 2
"""PyTorch counts a multiply-accumulate as two floating-point operations."""

Shape = tuple[int, ...]


class Counter(Protocol):
    """What counts while it is active, such as `torch.utils.flop_counter.FlopCounterMode`."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *args: Any) -> Any: ...

    def get_total_flops(self) -> int:
        """Return the floating-point operations so far."""


class NotCounting:
    """Stands in for a counter where a network runs, but not while it is counted."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *args: object) -> None:
        pass

    def get_total_flops(self) -> int:
        """Return 0."""
        return 0


@contextmanager
def plain_attention() -> Iterator[None]:
    """Compute attention by matrix products, which fused kernels hide from counters."""
    fused = torch.backends.mha.get_fastpath_enabled()
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with math:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class UncountedError(Exception):
    """An operator cannot be counted here, or there is more to be counted than was allowed."""


class SmallCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count as `torch.utils.flop_counter.FlopCounterMode` does, plain products only.

    Args:
        most: the most multiply-accumulates.

    Raises:
        UncountedError: where it is active, an operator runs that is no plain product and may
            hold one, or there are more than `most`.
    """

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = most
        self._macs = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say no: in order to be left alone by PyTorch's compiler one has to import it."""
        return False

    def get_total_flops(self) -> int:
        """Return the floating-point operations so far."""
        return FLOPS_PER_MAC * self._macs

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator, in parts where it is made of others, and count it."""
        del types
        keywords = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # noqa: SLF001 - it has no other name
            raise UncountedError(f"{func} takes functions")
        if func is not torch.ops.prim.device.default:
            with self:
                result = func.decompose(*args, **keywords)
            if result is not NotImplemented:
                return result
        result = func(*args, **keywords)
        self._macs += _macs(func, args, result)
        if self._macs > self._most:
            raise UncountedError(f"it takes more than {self._most} multiply-accumulates")
        return result


def _matrix_product(_: object, left: Tensor, right: Tensor, *__: object) -> int:
    """Of (…, m, k) and (…, k, n), the leading axes alike."""
    return left.numel() * right.shape[-1]


def _added_product(result: object, _: Tensor, left: Tensor, right: Tensor, *__: object) -> int:
    return _matrix_product(result, left, right)


def _convolution(
    result: Tensor,
    given: Tensor,
    weight: Tensor,
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    *_: object,
) -> int:
    """Use each weight once for every place of the output, of a transposed one of the input."""
    places = (given if transposed else result).shape[2:]
    return given.shape[0] * prod(places) * weight.numel()


_FORMULAS: Mapping[object, Callable[..., int]] = {
    torch.ops.aten.mm: _matrix_product,
    torch.ops.aten.bmm: _matrix_product,
    torch.ops.aten.addmm: _added_product,
    torch.ops.aten.baddbmm: _added_product,
    torch.ops.aten.convolution: _convolution,
}
"""What an operator takes, by its result and its arguments."""

_SUSPECT = ("mm", "conv", "attention", "rnn", "lstm", "gru", "dnn")
"""Parts of the names of all other operators that hold products, be they counted by PyTorch on this
device, on another one, or nowhere."""


def _macs(func: Any, args: Sequence[Any], result: Any) -> int:
    if formula := _FORMULAS.get(func.overloadpacket):
        return formula(result, *args)
    namespace, _, name = func.name().partition("::")
    if namespace not in {"aten", "prim"} or any(part in name for part in _SUSPECT):
        raise UncountedError(f"{func.name()} may hold products")
    return 0
