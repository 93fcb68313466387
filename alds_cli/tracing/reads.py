"""Attributes of its layers that a network's code reads, apart from calling the layers.

A pair can be called as the layer that it replaces, but has no weight, no number of features and
another type. Code that reads any of these needs the layer itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import nn

_WATCHED: tuple[type[nn.Module], ...] = (
    nn.Linear,
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

_SILENT = ("torch.nn.modules", "torch.utils", "torch._", "alds_cli")
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
    holds, and is recorded. Only layers of PyTorch's own types are watched.
    """
    classes = {kind: _watching(kind, reads) for kind in _WATCHED}
    watched: list[tuple[nn.Module, type[nn.Module]]] = []
    try:
        for name, part in network.named_modules():
            kind = type(part)
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
