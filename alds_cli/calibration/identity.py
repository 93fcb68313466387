"""A digest of all that decides what a network computes: its tensors, its settings and its code.

Networks with equal digests compute the same. A network that holds something that cannot be read,
such as a generator of random numbers, has none.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import re
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alds_cli.checkpoint import hash_tensors

_log = logging.getLogger(__name__)

_PLAIN = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), range, slice),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
    *(np.dtype, np.generic, re.Pattern, PurePath),
)
"""Their `repr` tells everything."""

_NO_MATTER = (
    *(logging.Logger, logging.LoggerAdapter, weakref.ReferenceType, type(threading.Lock())),
    *(GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType),
)
"""What they hold decides nothing that is computed."""

_LIBRARY_PLACES = ("site-packages", "dist-packages", "<frozen")


def network_digest(network: nn.Module) -> str | None:
    """Return a SHA-256, in hexadecimal, of tensors, settings and code of a network.

    Whether it trains does not count. Code of installed libraries counts by their versions. None
    is returned where something in the network cannot be read.
    """
    description = _Description()
    try:
        content = json.dumps(description.of(network), sort_keys=True)
    except (_OpaqueError, RecursionError) as error:
        _log.info("the network cannot be told from others: %s", error)
        return None
    digest = hashlib.sha256(content.encode(errors="surrogatepass"))
    digest.update(hash_tensors(description.tensors).encode())
    return digest.hexdigest()


class _OpaqueError(Exception):
    """An object cannot be described."""


class _Description:
    """Describes objects as JSON, each once; tensors are gathered beside it."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[int, int] = {}
        self._held: list[object] = []  # so that no other object gets the identity of one seen

    def of(self, value: object) -> Any:
        """Return the description of any object."""
        if isinstance(value, _PLAIN):
            return [type(value).__name__, repr(value)]
        if id(value) in self._seen:
            return ["again", self._seen[id(value)]]
        self._seen[id(value)] = len(self._seen)
        self._held.append(value)
        return [_name(type(value)), self._contents(value)]

    def _contents(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            self.tensors[str(len(self.tensors))] = value
            return [len(self.tensors), value.requires_grad]
        if isinstance(value, np.ndarray):
            digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return [
                str(value.dtype),
                value.shape,
                self.of(value.tolist()) if value.dtype.hasobject else digest,
            ]
        if isinstance(value, Enum):
            return value.name
        if isinstance(value, Mapping):
            return [[self.of(key), self.of(entry)] for key, entry in value.items()]
        if isinstance(value, (set, frozenset)):
            return sorted(json.dumps(self.of(entry), sort_keys=True) for entry in value)
        if isinstance(value, (list, tuple)):
            return [self.of(entry) for entry in value]
        if isinstance(value, (FunctionType, MethodType, functools.partial, CodeType, type)):
            return self._code(value)
        if isinstance(value, (ModuleType, BuiltinFunctionType)):
            return _name(value)
        if isinstance(value, _NO_MATTER):
            return None
        return [self._class(type(value)), self._attributes(value)]

    def _attributes(self, value: object) -> Any:
        """Describe what an object holds; of PyTorch's, only of modules.

        Raises:
            _OpaqueError: it holds something, but not in Python.
        """
        slots = [
            name
            for owner in type(value).__mro__
            for name in _listed(vars(owner).get("__slots__", ()))
        ]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        held.update(getattr(value, "__dict__", {}))
        opaque = not held and type(value) is not object and not hasattr(value, "__dict__")
        if (opaque and not slots) or isinstance(value, torch.jit.ScriptModule):
            raise _OpaqueError(f"it holds a {_name(type(value))}")
        if not isinstance(value, nn.Module) and _name(type(value)).startswith("torch."):
            return None
        if isinstance(value, nn.Module):
            held.pop("training", None)
        return [[name, self.of(entry)] for name, entry in held.items()]

    def _code(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return [self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, MethodType):
            return [self.of(value.__func__), self.of(value.__self__)]
        if isinstance(value, CodeType):
            constants = [self.of(constant) for constant in value.co_consts]
            return [value.co_code.hex(), constants, value.co_names, value.co_varnames]
        if isinstance(value, type):
            return self._class(value)
        return self._function(value)

    def _function(self, function: FunctionType) -> Any:
        if _is_library(function):
            return [_name(function), _version(function.__module__)]
        cells = [_cell(cell) for cell in function.__closure__ or ()]
        given = [function.__defaults__, function.__kwdefaults__, cells]
        return [
            self.of(function.__code__),
            [self.of(entry) for entry in given],
            [[name, self.of(entry)] for name, entry in _globals(function)],
        ]

    def _class(self, owner: type) -> Any:
        """Describe the code of a class and of the classes that it is made from."""
        described: list[Any] = []
        for base in owner.__mro__:
            if _is_library(base):
                described.append([_name(base), _version(base.__module__)])
                continue
            members = [(name, _unwrapped(entry)) for name, entry in vars(base).items()]
            kept = [
                [name, self.of(entry)]
                for name, entry in members
                if isinstance(entry, FunctionType) or not name.startswith(("__", "_abc_"))
            ]
            described.append([_name(base), kept])
        return described


def _globals(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield what a function refers to by the names of its module, and in modules of the user's."""
    names = list(_names(function.__code__))
    for name in names:
        if name not in function.__globals__:
            continue
        found = function.__globals__[name]
        yield name, found
        if isinstance(found, ModuleType) and not _is_library(found):
            yield from ((other, vars(found)[other]) for other in names if other in vars(found))


def _names(code: CodeType) -> Iterable[str]:
    """Yield the names in a function and in the functions that it makes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _listed(slots: Any) -> Iterable[str]:
    return [slots] if isinstance(slots, str) else [name for name in slots if name[:2] != "__"]


def _cell(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _unwrapped(entry: Any) -> Any:
    """Return the function of a method, whatever kind of method it is."""
    if isinstance(entry, (staticmethod, classmethod)):
        return entry.__func__
    if isinstance(entry, property):
        return entry.fget
    return entry


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


def _is_library(value: Any) -> bool:
    """Return whether a class, function or module belongs to Python or an installed library."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    top = str(name).partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    module = sys.modules.get(str(name))
    place = str(getattr(module, "__file__", None) or "")
    if isinstance(value, FunctionType):
        place = value.__code__.co_filename
    return any(library in place for library in _LIBRARY_PLACES)


def _version(module: str | None) -> str:
    """Return the version of the library that a module belongs to, as far as it tells one."""
    top = str(module).partition(".")[0]
    return str(inspect.getattr_static(sys.modules.get(top), "__version__", ""))
