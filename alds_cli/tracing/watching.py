"""What is watched while a network runs: its multiply-accumulates, and what its code reads.

Small networks have a counter of their own. PyTorch's imports Triton and, with the first operator,
all of its compiler, as many operators do on the meta device: together this takes as long as
importing PyTorch.

A pair can be called as the layer that it replaces, but has no weight, no number of features and
another type. Code that reads any of these attributes needs the layer itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from alds_cli.tracing.linear_layers import is_transposed_linear

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


_WATCHED: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Embedding,
    nn.modules.linear.NonDynamicallyQuantizableLinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.MultiheadAttention,
)

_IN_ATTENTION_TOO = frozenset({"embed_dim", "num_heads", "dropout", "batch_first", "out_proj"})
"""Attributes that an attention with pairs has as before."""

_TELLING = frozenset(
    {"__class__", "__dict__", "_parameters", "state_dict", "named_parameters", "get_parameter"}
)
"""Attributes that a pair has as well, but with other contents. `parameters()` is not among them: it
is read for types and devices, which are the same."""

_SILENT = (
    *("torch.nn.modules", "torch.utils", "torch._", "alds_cli", "transformers.pytorch_utils"),
    "transformers.utils.output_capturing",  # asks the type of all modules, to observe some
)
"""Modules whose reading does not count: the layers' own code and PyTorch's machinery, which a pair
serves as well. Of PyTorch's modules only those around attention read the layers in them, for
kernels that `surgery` turns off where a pair stands."""


@dataclass(frozen=True, slots=True)
class Read:
    """An attribute of a layer that was read, and the code that read it, such as `Net.forward`."""

    attribute: str
    reader: str


@contextmanager
def watch_reads(network: nn.Module, reads: MutableMapping[str, Read]) -> Iterator[None]:
    """Record in `reads`, by each layer's (first) dotted name, the first attribute read of it.

    In the context, the layers belong to another class that computes the same; `isinstance` still
    holds, and is recorded. Only layers of types that a pair may replace are watched.
    """
    classes = {kind: _watching(kind, reads) for kind in _WATCHED}
    watched: list[tuple[nn.Module, type[nn.Module]]] = []
    try:
        for name, part in network.named_modules():
            kind = type(part)
            if is_transposed_linear(part) and kind not in classes:
                classes[kind] = _watching(kind, reads)
            if kind in classes:
                object.__setattr__(part, _NAME, name)
                object.__setattr__(part, "__class__", classes[kind])
                watched.append((part, kind))
        yield
    finally:
        for part, kind in watched:
            object.__setattr__(part, "__class__", kind)
            object.__delattr__(part, _NAME)


_NAME = "_alds_watched_name"


def _watching(kind: type[nn.Module], reads: MutableMapping[str, Read]) -> type[nn.Module]:
    """Return a class that does what `kind` does and records what is read of its instances.

    It does not inherit from `kind`: `isinstance` asks an object for its `__class__`, which can be
    recorded, only where the object's type does not answer already.
    """
    harmless = frozenset(dir(nn.Sequential())) - _TELLING
    if kind is nn.MultiheadAttention:
        harmless |= _IN_ATTENTION_TOO

    def get(self: nn.Module, name: str) -> Any:
        if name == "__class__":
            value: Any = kind
        else:
            try:
                value = object.__getattribute__(self, name)
            except AttributeError:
                value = nn.Module.__getattr__(self, name)
        if name not in harmless and (reader := _reader(sys._getframe(1), name)):  # noqa: SLF001
            layer_name = object.__getattribute__(self, _NAME)
            reads.setdefault(layer_name, Read(name, reader))
        return value

    body: dict[str, Any] = {}
    for base in reversed(kind.__mro__[: kind.__mro__.index(nn.Module)]):
        body |= vars(base)
    for slot in ("__dict__", "__weakref__"):
        body.pop(slot, None)
    return type(kind.__name__, (nn.Module,), {**body, "__getattribute__": get})


_ON_BEHALF = frozenset({"get_parameter", "get_buffer"})
"""Methods of PyTorch's module class that read an attribute on behalf of their caller."""


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _reader(frame: FrameType, name: str) -> str | None:
    """Return the code that reads an attribute; None where its reading does not count."""
    module = _module_of(frame)
    while (
        module == "torch.nn.modules.module"
        and frame.f_code.co_name in _ON_BEHALF
        and (asking := frame.f_back) is not None
    ):
        frame, module = asking, _module_of(asking)
    if module.startswith(_SILENT):
        return None
    root = module.partition(".")[0]
    if name in _TELLING and (root == "torch" or root in sys.stdlib_module_names):
        return None
    return frame.f_code.co_qualname
