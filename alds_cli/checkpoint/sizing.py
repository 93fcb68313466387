"""How large an artefact will be, to the byte, without its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alds_cli.checkpoint.document import DOCUMENT_KEY, Document, dump_document
from alds_cli.checkpoint.safetensors_files import TYPES
from alds_cli.checkpoint.writing import (
    artefact_content,
    is_safetensors,
    once,
    require_writable_types,
    write_torch,
)

_SAFETENSORS_NAMES = {dtype: name for name, dtype in TYPES.items()}


def artefact_size(tensors: Mapping[str, Tensor], document: Document, target: str | Path) -> int:
    """The number of bytes that `write_artefact` would write.

    Args:
        tensors: the network's state dict; only shapes, types and ties count, so the meta
            device will do.
        document: what else the artefact holds.
        target: its name, for the format.
    """
    if is_safetensors(target):
        return _safetensors_size(once(tensors, document), document)
    sink = _Counter()
    write_torch(artefact_content(_zeros_like(tensors), document), sink)
    return sink.size


class _Counter:
    """A file that only counts what is written to it."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Count the bytes."""
        count = memoryview(data).nbytes
        self.size += count
        return count

    def flush(self) -> None:
        """Nothing is held back."""


def _zeros_like(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of zeros that take no memory until something is written into them."""
    made: dict[int, Tensor] = {}
    blank: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.untyped_storage()
        if whole.nbytes() != tensor.nbytes:  # a window, which is written as a whole of its own
            blank[name] = _zeros(tensor.shape, tensor.dtype)
            continue
        storage = whole._cdata  # noqa: SLF001 - there are no addresses on meta
        if storage not in made:
            made[storage] = _zeros(tensor.shape, tensor.dtype)
        # A tensor of its own, as the network's are, on what may be a shared storage.
        blank[name] = torch.as_strided(made[storage], tensor.shape, tensor.stride())
    return blank


def _zeros(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    count = shape.numel()
    if count == 0:
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(np.zeros(count * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def _safetensors_size(tensors: Mapping[str, Tensor], document: Document) -> int:
    """A length of eight bytes, the header padded to a multiple of eight, the numbers.

    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """
    header: dict[str, object] = {"__metadata__": {DOCUMENT_KEY: dump_document(document)}}
    require_writable_types(tensors)
    offset = 0
    types = list(_SAFETENSORS_NAMES)
    # In the writer's order, because the digits of the offsets count.
    for name, tensor in sorted(
        tensors.items(), key=lambda item: (types.index(item[1].dtype), item[0])
    ):
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + offset
