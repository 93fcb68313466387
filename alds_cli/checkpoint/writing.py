"""Writing artefacts, and the JSON document in each: what the network is, how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from alds_cli._version import __version__
from alds_cli.checkpoint.files import replacing, sent_on
from alds_cli.checkpoint.safetensors_files import TYPES
from alds_cli.errors import CheckpointError, OptionError, OutputError, first_line
from alds_cli.forms import SCHEMA
from alds_cli.inputs import InputSpec, parse_inputs
from alds_cli.records import (
    Architecture,
    Inference,
    Plan,
    Preprocessing,
    Program,
    ProgramArchitecture,
    Training,
)
from alds_cli.schemas import (
    MalformedError,
    UnknownSchemaError,
    held,
    parsed,
)
from alds_cli.schemas.file_forms import ArtefactForm, PlanForm

DOCUMENT_KEY = "alds"
"""The key of the document beside `state_dict`, and in a safetensors file's metadata."""


@dataclass(frozen=True, slots=True)
class Document:
    """Everything but the tensors that a network needs in order to run again.

    `plan` holds only the layers that are pairs. `source_hash` is the hash of the weights that
    were compressed, `params_before` their number. `training` describes a retraining,
    `inference` what makes the network faster. `shared`
    maps further names of tensors to the name under which they are written. `versions` are those
    of the programs that wrote the file.
    """

    architecture: Architecture
    plan: Plan
    inputs: InputSpec | None = None
    preprocessing: Preprocessing | None = None
    source_hash: str | None = None
    params_before: int | None = None
    training: Training | None = None
    inference: Inference | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(
        default_factory=lambda: {"alds": __version__, "torch": torch.__version__}
    )


def dump_document(document: Document) -> str:
    """Return the document as JSON text; the same document gives the same bytes.

    Raises:
        OutputError: a value in it exceeds its bounds, so that it could not be read again.
    """
    try:
        return held(
            ArtefactForm,
            schema_=SCHEMA,
            architecture=document.architecture,
            plan=PlanForm.of(document.plan),
            inputs=None if document.inputs is None else str(document.inputs),
            preprocessing=document.preprocessing,
            source_hash=document.source_hash,
            params_before=document.params_before,
            training=document.training,
            inference=document.inference,
            program=_program_of(document.architecture),
            shared=dict(document.shared),
            versions=dict(document.versions),
        ).text(separators=(",", ":"))
    except MalformedError as error:
        raise OutputError(f"the artefact's document cannot be written: {error}") from error


def parse_document(text: str, name: str) -> Document:
    """Read what `dump_document` wrote.

    Raises:
        CheckpointError: the text is damaged, or has a schema that this version does not know.
    """
    try:
        return _document(parsed(ArtefactForm, text))
    except UnknownSchemaError as error:
        raise CheckpointError(
            f"{name} is an alds artefact, but {error}",
            tip="install the version of alds that wrote it, or a newer one",
        ) from error
    except (MalformedError, OptionError) as error:
        raise CheckpointError(f"{name}: the artefact's document is damaged: {error}") from error


def _program_of(architecture: Architecture) -> Program | None:
    return architecture.graph if isinstance(architecture, ProgramArchitecture) else None


def _document(form: ArtefactForm) -> Document:
    inputs = None if form.inputs is None else parse_inputs(form.inputs)
    if form.input_shape is not None:
        inputs = InputSpec.of_sample(form.input_shape)
    named = form.architecture
    return Document(
        architecture=named if form.program is None else ProgramArchitecture(graph=form.program),
        plan=form.plan.plan(),
        inputs=inputs,
        preprocessing=form.preprocessing,
        source_hash=form.source_hash,
        params_before=form.params_before,
        training=form.training,
        inference=form.inference,
        shared=form.shared,
        versions=form.versions,
    )


def write_artefact(tensors: Mapping[str, Tensor], document: Document, target: str | Path) -> int:
    """Write an artefact; `-` writes PyTorch's format to standard output.

    Args:
        tensors: the network's state dict. A tensor that it holds under several names is
            written once: PyTorch's format supports shared memory, and safetensors files leave
            out the names that the document lists as shared.
        document: everything else that the network needs in order to run.
        target: `.safetensors` gives that format, any other suffix PyTorch's.

    Returns:
        The number of bytes written.

    Raises:
        OutputError: it cannot be written; an earlier file of that name stays as it was.
    """
    if str(target) == "-":
        with sent_on() as spooled:
            return write_artefact(tensors, document, spooled)
    path = Path(target)
    with replacing(path) as temporary:
        if is_safetensors(path):
            text = dump_document(document)
            write_safetensors(once(tensors, document), temporary, {DOCUMENT_KEY: text})
        else:
            dump_torch(artefact_content(_self_contained(tensors), document), temporary)
        return temporary.stat().st_size


def once(tensors: Mapping[str, Tensor], document: Document) -> dict[str, Tensor]:
    """Return the tensors without those that the document lists under another name."""
    return {name: tensor for name, tensor in tensors.items() if name not in document.shared}


def is_safetensors(target: str | Path) -> bool:
    """Return whether a file of this name has the safetensors format."""
    return Path(target).suffix == ".safetensors"


def artefact_content(tensors: Mapping[str, Tensor], document: Document) -> dict[str, Any]:
    """Return the content of an artefact in PyTorch's format."""
    return {DOCUMENT_KEY: dump_document(document), "state_dict": dict(tensors)}


def dump_torch(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values in PyTorch's format, with bytes independent of the name.

    Raises:
        OutputError: PyTorch could not write them.
    """
    # An open file, because a path's name would become part of the archive.
    with path.open("wb") as file:
        write_torch(content, file)


def write_torch(content: Mapping[str, Any], file: Any) -> None:
    """Write to an open file, or to another object with its `write`.

    Raises:
        OSError: the disk is full, or the file cannot be written for another reason.
        OutputError: PyTorch could not write it.
    """
    sink = _Sink(file)
    try:
        torch.save(dict(content), cast("IO[bytes]", sink))
    except RuntimeError as error:
        # PyTorch reports where the archive broke off; only the file knew why.
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


def write_safetensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write tensors as a safetensors file; those that share memory are written separately.

    Raises:
        OSError: the file cannot be written.
        SafetensorError: the library says so.
        OutputError: the format lacks a type.
    """
    require_writable_types(tensors)
    written: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in _self_contained(tensors).items():
        # The format has no shared memory.
        shared = tensor.data_ptr() in seen and tensor.numel() > 0
        written[name] = tensor.clone() if shared else tensor.contiguous()
        seen.add(tensor.data_ptr())
    save_file(written, path, metadata=dict(metadata) or None)


def require_writable_types(tensors: Mapping[str, Tensor]) -> None:
    """Make sure that safetensors has the tensors' types.

    Raises:
        OutputError: the format lacks a type.
    """
    for name, tensor in tensors.items():
        if tensor.dtype == torch.complex128:
            raise OutputError(
                f"the format safetensors has no type for {name}, which is complex128",
                tip="give the file another suffix, e.g. .pt",
            )


def _self_contained(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return plain tensors on the CPU, in the network's order, none a part of a larger storage.

    PyTorch's format writes whole storages, so a part would bring the rest along.
    """
    plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    return {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in plain.items()
    }


_SAFETENSORS_NAMES = {dtype: name for name, dtype in TYPES.items()}


def artefact_size(tensors: Mapping[str, Tensor], document: Document, target: str | Path) -> int:
    """Return the number of bytes that `write_artefact` would write.

    Args:
        tensors: the network's state dict; only shapes, types and sharing matter, so tensors
            on the meta device suffice.
        document: the artefact's document.
        target: the artefact's name, which tells the format.
    """
    if is_safetensors(target):
        text = dump_document(document)
        return safetensors_size(once(tensors, document), {DOCUMENT_KEY: text})
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
        """Do nothing, because nothing is buffered."""


def _zeros_like(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of zeros that take no memory until something is written into them."""
    made: dict[int, Tensor] = {}
    blank: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.untyped_storage()
        if whole.nbytes() != tensor.nbytes:  # a part of a storage, which is written separately
            blank[name] = _zeros(tensor.shape, tensor.dtype)
            continue
        storage = whole._cdata  # noqa: SLF001 - tensors on meta have no addresses
        if storage not in made:
            made[storage] = _zeros(tensor.shape, tensor.dtype)
        # A new tensor, on a storage that may be shared.
        blank[name] = torch.as_strided(made[storage], tensor.shape, tensor.stride())
    return blank


def _zeros(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    count = shape.numel()
    if count == 0:
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(np.zeros(count * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def safetensors_size(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = MappingProxyType({})
) -> int:
    """Return the size of a length of eight bytes, a header padded to a multiple of 8, and data.

    Only the tensors' shapes and types matter.

    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    require_writable_types(tensors)
    offset = 0
    types = list(_SAFETENSORS_NAMES)
    # In the writer's order, because the number of digits of the offsets matters.
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
