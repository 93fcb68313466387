"""Writing artefacts: tensors and one document, the same bytes for the same content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from alds_cli.checkpoint.atomic import replacing
from alds_cli.checkpoint.document import DOCUMENT_KEY, Document, dump_document
from alds_cli.checkpoint.standard import sent_on
from alds_cli.errors import OutputError, first_line


def write_artefact(tensors: Mapping[str, Tensor], document: Document, target: str | Path) -> int:
    """Write an artefact; `-` writes PyTorch's format to standard output.

    Args:
        tensors: the network's state dict. A tensor that it holds under several names is
            written once: PyTorch's format knows shared memory, and from safetensors those
            names are left out that the document says are shared.
        document: what else it needs in order to run.
        target: `.safetensors` gives that format, any other suffix PyTorch's.

    Returns:
        The number of bytes written.

    Raises:
        OutputError: it cannot be written; what stood under the name before still does.
    """
    if str(target) == "-":
        with sent_on() as spooled:
            return write_artefact(tensors, document, spooled)
    path = Path(target)
    with replacing(path) as temporary:
        if is_safetensors(path):
            _write_safetensors(tensors, document, temporary)
        else:
            dump_torch(artefact_content(_self_contained(tensors), document), temporary)
        return temporary.stat().st_size


def once(tensors: Mapping[str, Tensor], document: Document) -> dict[str, Tensor]:
    """The tensors without those that the document says are there under another name."""
    return {name: tensor for name, tensor in tensors.items() if name not in document.shared}


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
        OSError: the disk is full, or the file cannot be written for another reason.
        OutputError: PyTorch could not write it.
    """
    sink = _Sink(file)
    try:
        torch.save(dict(content), cast("IO[bytes]", sink))
    except RuntimeError as error:
        # PyTorch tells where its archive broke off; why, only the file knew.
        raise sink.failure or OutputError(f"cannot write the file: {first_line(error)}") from error


class _Sink:
    """An open file that remembers why it could not be written."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write to the file."""
        try:
            written: int = self._file.write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise
        return written

    def flush(self) -> None:
        """Flush the file."""
        if hasattr(self._file, "flush"):
            self._file.flush()


def _write_safetensors(tensors: Mapping[str, Tensor], document: Document, path: Path) -> None:
    require_writable_types(tensors)
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in _self_contained(once(tensors, document)).items():
        # The format knows no shared memory: what is no whole of its own is written apart.
        shared = tensor.data_ptr() in seen and tensor.numel() > 0
        own[name] = tensor.clone() if shared else tensor.contiguous()
        seen.add(tensor.data_ptr())
    save_file(own, path, metadata={DOCUMENT_KEY: dump_document(document)})


def require_writable_types(tensors: Mapping[str, Tensor]) -> None:
    """See that safetensors knows the tensors' types.

    Raises:
        OutputError: it does not.
    """
    for name, tensor in tensors.items():
        if tensor.dtype == torch.complex128:
            raise OutputError(
                f"the format safetensors has no type for {name}, which is complex128",
                tip="give the file another suffix, e.g. .pt",
            )


def _self_contained(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain tensors on the CPU in the network's own order, none a window on a larger storage.

    PyTorch's format writes whole storages, so a window would drag all of it along.
    """
    plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    return {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in plain.items()
    }
