"""Safetensors files: the whole header is checked, then tensors are read or mapped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from alds_cli.checkpoint.files import (
    MalformedError,
    TruncatedError,
    UnsupportedError,
    fill,
)
from alds_cli.checkpoint.mapped_files import folder_for, map_file, tensor_in

_MOST_HEADER = 32 << 20
"""The most bytes of a header, enough for some 300,000 tensors."""

_MOST_DIMENSIONS = 64

TYPES: dict[str, torch.dtype] = {
    name: getattr(torch, dtype)
    for name, dtype in {
        "U64": "uint64",
        "I64": "int64",
        "F64": "float64",
        "C64": "complex64",
        "F32": "float32",
        "U32": "uint32",
        "I32": "int32",
        "BF16": "bfloat16",
        "F16": "float16",
        "U16": "uint16",
        "I16": "int16",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E8M0": "float8_e8m0fnu",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "I8": "int8",
        "U8": "uint8",
        "BOOL": "bool",
    }.items()
    if hasattr(torch, dtype)
}
"""The types of this PyTorch that the format knows, in the order in which its writer puts tensors:
by type, then by name."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as the header describes it; `start` and `end` count from the header's end."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors and the metadata.

    Large tensors are mapped instead within `mapped_files.weights_in_files`.

    Raises:
        MalformedError: the file is incomplete, or its header does not fit its size.
        UnsupportedError: tensors are of a type that PyTorch does not have.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        first, header = _read_header(file, size)
        metadata = _metadata(header.pop("__metadata__", {}))
        entries = {name: _entry(name, described) for name, described in header.items()}
        _require_whole(entries, size - first)
        mapped = _mapped_tensors(file, first, entries)
        tensors = {
            name: mapped[name] if name in mapped else _read_tensor(file, first, entry)
            for name, entry in entries.items()
        }
        return tensors, metadata


def _read_header(file: BinaryIO, size: int) -> tuple[int, dict[str, object]]:
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise TruncatedError(f"its header would have {length:,} bytes, the file has {size:,}")
    if length > _MOST_HEADER:
        raise MalformedError(
            f"its header has {length:,} bytes, more than the {_MOST_HEADER:,} that are read"
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        if isinstance(error, MalformedError):
            raise
        raise MalformedError("its header is damaged") from error
    if not isinstance(header, dict):
        raise MalformedError("its header is damaged")
    return 8 + length, header


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("its header has an entry twice")
    return found


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, Mapping) or not all(isinstance(v, str) for v in found.values()):
        raise MalformedError("its metadata are damaged")
    return dict(found)


def _entry(name: str, described: object) -> _Entry:
    """Read one tensor's description, which must have the form that the format requires."""
    if not isinstance(described, Mapping) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise MalformedError(f"the entry of its tensor {name:.60} is damaged")
    kind, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if (
        not isinstance(kind, str)
        or not _whole_numbers(shape)
        or not _whole_numbers(offsets)
        or len(offsets) != 2
        or len(shape) > _MOST_DIMENSIONS
    ):
        raise MalformedError(f"the entry of its tensor {name:.60} is damaged")
    if kind not in TYPES:
        raise UnsupportedError(f"its tensor {name:.60} is of type {kind:.20}, which is not read")
    return _Entry(TYPES[kind], tuple(shape), *offsets)


def _whole_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)


def _require_whole(entries: Mapping[str, _Entry], data: int) -> None:
    """Make sure that the tensors fill the data one after another, without gaps or overlaps."""
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != place or entry.end < entry.start:
            raise MalformedError(
                f"the data of its tensor {name:.60} overlap others, or leave a gap"
            )
        if math.prod(entry.shape) * entry.dtype.itemsize != entry.end - entry.start:
            raise MalformedError(f"its tensor {name:.60} has other data than its shape says")
        if math.prod(max(1, size) for size in entry.shape) * entry.dtype.itemsize >= 1 << 63:
            raise MalformedError(f"the shape of its tensor {name:.60} is impossible")
        place = entry.end
    if place != data:
        raise TruncatedError(
            f"its tensors have {place:,} bytes, but {data:,} come after its header"
        )


def _mapped_tensors(file: BinaryIO, first: int, entries: Mapping[str, _Entry]) -> dict[str, Tensor]:
    """Return the tensors that stay in the file."""
    large = {name: entry for name, entry in entries.items() if folder_for(entry.end - entry.start)}
    if not large:
        return {}
    if (mapped := map_file(file)) is None:
        return {}
    found = {
        name: tensor_in(mapped, first + entry.start, entry.dtype, entry.shape)
        for name, entry in large.items()
    }
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _read_tensor(file: BinaryIO, first: int, entry: _Entry) -> Tensor:
    """Read a tensor into memory of its own instead of mapping the file."""
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    if tensor.numel():
        file.seek(first + entry.start)
        target = tensor.view(-1).view(torch.uint8).numpy().data
        if fill(file, target) != len(target):
            raise TruncatedError("it ends too early")
    return tensor
