"""Files of `torch.export` (`.pt2`): the graph's JSON, and tensors as bytes. No code is run.

`torch.export.load` unpickles objects, evaluates expressions as Python code and looks up any
function of PyTorch's by name, so that a file from a stranger could do anything. Here the parts of
the archive are read one by one, and what is no plain value or tensor is refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from alds_cli.checkpoint.archives import Archive
from alds_cli.checkpoint.files import MalformedError, NeedsCodeError, UnsupportedError
from alds_cli.checkpoint.program_graphs import dtype_of, fixed_extent, program_of
from alds_cli.checkpoint.program_schema import (
    MetaForm,
    PayloadForm,
    PayloadsForm,
    read_form,
    read_program_form,
)
from alds_cli.records import Program, ProgramArchitecture

_MOST_TEXT = 1 << 28
"""The most bytes of a graph's JSON, in which every step has its lines of source code."""

_MODELS = "models/"

_OLD_PROGRAM = "serialized_exported_program.json"
"""What PyTorch before 2.8 called the graph."""

_FOLDERS = {"weights": "data/weights/", "constants": "data/constants/"}

Content = tuple[dict[str, Tensor], ProgramArchitecture]


def is_program(members: frozenset[str]) -> bool:
    """Return whether an archive with these members holds a program of `torch.export`."""
    return _OLD_PROGRAM in members or "archive_format" in members


def read_program(path: Path, unpickle: Callable[[Path], object]) -> Content:
    """Read a program and its tensors, by the names that the program has for them.

    Args:
        path: the file.
        unpickle: reads a file of `torch.save`, as old versions hold one for all tensors.

    Raises:
        MalformedError: it is incomplete, or claims more than a file of its size may.
        UnsupportedError: it holds something that is not supported.
        NeedsCodeError: it holds pickled objects.
    """
    with Archive(path) as archive:
        old = _OLD_PROGRAM in archive.names
        model = None if old else _model(archive)
        graph = _graph(_text(archive, model or _OLD_PROGRAM))
        name = "" if model is None else model.removeprefix(_MODELS).removesuffix(".json")
        held: dict[str, Tensor] = {}
        for kind, folder in _FOLDERS.items():
            pickled = _pickled(archive, kind, folder, name)
            if pickled is not None:
                held |= _tensors_in(_spooled(archive.content(pickled), unpickle))
            elif not old:
                held |= _payloads(archive, kind, folder, name)
        missing = graph.tensors.keys() - held.keys()
        if missing:
            raise MalformedError(f"the program reads {min(missing):.60}, which the file lacks")
        tensors = {each: held[each] for each in graph.tensors}
        _require_shapes(tensors, {each: own.shape for each, own in graph.tensors.items()})
        return tensors, ProgramArchitecture(graph=graph)


def _model(archive: Archive) -> str:
    """Return the member that holds the graph.

    Raises:
        UnsupportedError: there is none, or there are several.
    """
    found = [each for each in archive.names if each.startswith(_MODELS) and each.endswith(".json")]
    if len(found) == 1:
        return found[0]
    if any(each.startswith("data/aotinductor/") for each in archive.names):
        raise UnsupportedError("it is a package of compiled machine code, not a program")
    raise UnsupportedError(f"it holds {len(found)} programs; files with one are read")


def _graph(text: bytes) -> Program:
    try:
        return program_of(read_program_form(text))
    except (MalformedError, UnsupportedError):
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise MalformedError("the program is damaged") from error


def _text(archive: Archive, member: str) -> bytes:
    size = archive.size(member)
    if size > _MOST_TEXT:
        raise MalformedError(f"its graph has {size:,} bytes, more than the {_MOST_TEXT:,} read")
    return archive.content(member)


def _pickled(archive: Archive, kind: str, folder: str, model: str) -> str | None:
    """Return the member in which older versions have all tensors of a kind; None without one."""
    names = {"weights": "serialized_state_dict.pt", "constants": "serialized_constants.pt"}
    return next(
        (each for each in (names[kind], f"{folder}{model}.pt") if each in archive.names), None
    )


def _spooled(content: bytes, unpickle: Callable[[Path], object]) -> object:
    if not content:  # PyTorch's way of writing that there are none
        return {}
    with tempfile.NamedTemporaryFile(prefix="alds-program-") as file:
        file.write(content)
        file.flush()
        return unpickle(Path(file.name))


def _tensors_in(loaded: object) -> dict[str, Tensor]:
    """Return the tensors of a dictionary by name, and no other objects.

    Raises:
        NeedsCodeError: it holds others.
    """
    if not isinstance(loaded, Mapping) or not all(
        isinstance(each, Tensor) for each in loaded.values()
    ):
        raise NeedsCodeError("it holds other objects than tensors", ["constants"])
    return {str(name): tensor for name, tensor in loaded.items()}


def _payloads(archive: Archive, kind: str, folder: str, model: str) -> dict[str, Tensor]:
    """Read tensors that are written as their bytes; those of one member share its memory."""
    text = _text(archive, f"{folder}{model}_{kind}_config.json")
    memories: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, payload in read_form(PayloadsForm, text, f"its list of {kind}").config.items():
        meta = _meta(name, payload)
        member = folder + payload.path_name
        if member not in memories:
            memories[member] = _memory(archive, member)
        found[name] = _view(memories[member], meta, name)
    return found


def _meta(name: str, payload: PayloadForm) -> MetaForm:
    if payload.use_pickle or payload.tensor_meta is None:
        raise NeedsCodeError(f"its constant {name:.60} is a pickled object", [name[:60]])
    return payload.tensor_meta


def _memory(archive: Archive, member: str) -> Tensor:
    memory = torch.empty(archive.size(member), dtype=torch.uint8)
    archive.read_into(member, memory.numpy().data)
    if archive.byteorder() != "little":
        raise UnsupportedError("it was written on a machine with another byte order")
    return memory


def _view(memory: Tensor, meta: MetaForm, name: str) -> Tensor:
    """Return a tensor in a memory, which it must not leave.

    Raises:
        MalformedError: it would.
    """
    dtype: torch.dtype = getattr(torch, dtype_of(meta))
    shape = [fixed_extent(each) for each in meta.sizes]
    strides = [fixed_extent(each) for each in meta.strides]
    offset = fixed_extent(meta.storage_offset)
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=False))
    if len(shape) != len(strides) or (last + 1) * dtype.itemsize > memory.numel():
        raise MalformedError(f"its tensor {name:.60} has less data than its shape says")
    if prod(shape) * dtype.itemsize > memory.numel():
        raise MalformedError(f"its tensor {name:.60} repeats its data")
    whole = memory[: memory.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
    return whole.as_strided(shape, strides, offset)


def _require_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise MalformedError(f"its tensor {name:.60} has another shape than the graph says")
