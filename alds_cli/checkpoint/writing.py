"""Writing artefacts: tensors and one document, the same bytes for the same content."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from alds_cli.checkpoint.atomic import copy_stream, replacing
from alds_cli.checkpoint.document import DOCUMENT_KEY, Document, dump_document
from alds_cli.errors import OutputError


def write_artefact(tensors: Mapping[str, Tensor], document: Document, target: str | Path) -> int:
    """Write an artefact; `-` writes PyTorch's format to standard output.

    Args:
        tensors: the network's state dict.
        document: what else it needs in order to run.
        target: `.safetensors` gives that format, any other suffix PyTorch's.

    Returns:
        The number of bytes written.

    Raises:
        OutputError: it cannot be written; what stood under the name before still does.
    """
    if str(target) == "-":
        with tempfile.TemporaryDirectory(prefix="alds-stdout-") as folder:
            spooled = Path(folder) / "artefact.pt"
            size = write_artefact(tensors, document, spooled)
            with spooled.open("rb") as source:
                copy_stream(source, sys.stdout.buffer)
            return size
    path = Path(target)
    with replacing(path) as temporary:
        if is_safetensors(path):
            _write_safetensors(tensors, document, temporary)
        else:
            dump_torch(artefact_content(_self_contained(tensors), document), temporary)
        return temporary.stat().st_size


def is_safetensors(target: str | Path) -> bool:
    """Whether that is the format of a file of this name."""
    return Path(target).suffix == ".safetensors"


def artefact_content(tensors: Mapping[str, Tensor], document: Document) -> dict[str, Any]:
    """What an artefact in PyTorch's format holds."""
    return {DOCUMENT_KEY: dump_document(document), "state_dict": dict(tensors)}


def dump_torch(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values in PyTorch's format, the same bytes under any name.

    Raises:
        OutputError: PyTorch could not write them.
    """
    # Through an open file, because a path's name would become part of the archive.
    with path.open("wb") as file:
        write_torch(content, file)


def write_torch(content: Mapping[str, Any], file: Any) -> None:
    """Write to an open file, or to whatever else has its `write`.

    Raises:
        OutputError: PyTorch could not write it.
    """
    try:
        torch.save(dict(content), file)
    except RuntimeError as error:
        raise OutputError(f"cannot write the file: {error}") from error


def _write_safetensors(tensors: Mapping[str, Tensor], document: Document, path: Path) -> None:
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in _self_contained(tensors).items():
        # The format knows no shared storage: tied weights are written once per name.
        shared = tensor.data_ptr() in seen and tensor.numel() > 0
        own[name] = tensor.clone() if shared else tensor.contiguous()
        seen.add(tensor.data_ptr())
    try:
        save_file(own, path, metadata={DOCUMENT_KEY: dump_document(document)})
    except SafetensorError as error:
        raise OutputError(f"cannot write the artefact: {error}") from error


def _self_contained(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain tensors on the CPU in the network's own order, none a window on a larger storage.

    PyTorch's format writes whole storages, so a window would drag all of it along.
    """
    plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    return {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in plain.items()
    }
