"""Reading model files of every kind safely; first bytes, not suffixes, tell the kind."""

from __future__ import annotations

import logging
import os
import pickle
import re
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alds_cli.checkpoint.files import (
    MalformedError,
    NeedsCodeError,
    TruncatedError,
    UnsupportedError,
    received,
    require_regular,
    standard_input,
)
from alds_cli.checkpoint.model_folder import ModelFolder, describe_folder
from alds_cli.checkpoint.safetensors_files import read_safetensors
from alds_cli.checkpoint.sharded import model_in_folder, read_index, require_listed
from alds_cli.checkpoint.unwrapping import FoundState, find_state_dict
from alds_cli.checkpoint.writing import DOCUMENT_KEY, Document, parse_document
from alds_cli.errors import CheckpointError, UnsafeCheckpointError, first_line
from alds_cli.records import ProgramArchitecture

_ONNX = "an ONNX model; compress the PyTorch model that it was exported from, and export it again"

_OTHER_FORMATS = (
    # The version of the format, then the name of a program or the graph itself.
    *(
        (bytes([8, version, next_field]), _ONNX)
        for version in range(3, 16)
        for next_field in b"\x12:"
    ),
    (b"\x89HDF", "an HDF5 file, as Keras writes them"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a single NumPy array"),
    (b"\x1f\x8b", "packed with gzip; unpack it first"),
    (b"BZh", "packed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "packed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed with Zstandard; unpack it first"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself: git lfs pull"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"(dp", "a pickle in the text form of protocol 0; write it again with protocol 2 or later"),
    (b"(lp", "a pickle in the text form of protocol 0; write it again with protocol 2 or later"),
)

_HEAD = 32
"""The number of bytes at the beginning that tell what a file is."""


def kind_of(path: Path, name: str) -> str:
    """Return what a file is, judged by its first bytes, and of an archive by its members.

    Returns:
        `zip`, `program`, `pickle`, `safetensors` or `index`.

    Raises:
        CheckpointError: it is none of them; the message says what it is, if that is known.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise CheckpointError(f"{name}: {error.strerror}") from error
    kind = kind_of_beginning(head, size, name)
    if kind == "zip":
        with refusals(name):
            return _kind_of_archive(path, name)
    return kind


def kind_of_beginning(head: bytes, size: int, name: str) -> str:
    """Return the kind of a file of which only the beginning is known.

    Args:
        head: the first 32 bytes or more, or all of a shorter file.
        size: the size of the whole file in bytes, or an upper bound.
        name: the name for messages.

    Raises:
        CheckpointError: it is none of them.
    """
    head = head[:_HEAD]
    if not head:
        raise CheckpointError(f"{name} is empty")
    # Safetensors comes first, because it begins with a length, which may look like any other
    # format's mark. The marks, read as lengths, are beyond the end of any file.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head.startswith(b"PK"):
        return "zip"
    if head[:1] == b"\x80" or head.startswith((b"}q", b"]q")):
        return "pickle"
    if head.lstrip()[:1] == b"{" and b"\0" not in head:
        return "index"
    if head[8:9] == b"{":
        return "safetensors"
    if what := next((what for mark, what in _OTHER_FORMATS if head.startswith(mark)), None):
        raise CheckpointError(f"{name} is not a model file that can be read: it is {what}")
    raise CheckpointError(
        f"{name} is not a model file: it is neither a PyTorch checkpoint nor safetensors "
        f"(it starts with {head[:8]!r})"
    )


def _kind_of_archive(path: Path, name: str) -> str:
    """Return `zip` or `program`, or raise an error that says what else an archive is."""
    from alds_cli.checkpoint.archives import Archive  # noqa: PLC0415 - as in `_read_pickled`
    from alds_cli.checkpoint.program_files import is_program  # noqa: PLC0415

    with Archive(path) as archive:
        members = archive.names
    if "constants.pkl" in members and any(member.startswith("code/") for member in members):
        raise CheckpointError(
            f"{name} is a TorchScript archive: it holds a program, not a state dict",
            tip="save its tensors: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')",
        )
    if is_program(members):
        return "program"
    if "data.pkl" in members:
        return "zip"
    if members and all(member.endswith(".npy") for member in members):
        raise CheckpointError(
            f"{name} is a zip archive of NumPy arrays (.npz), but not a PyTorch checkpoint",
            tip="save its arrays by name: torch.save(dict(numpy.load(FILE)), 'weights.pt')",
        )
    inside = [
        member for member in members if member.endswith((".pt", ".pth", ".bin", ".safetensors"))
    ]
    raise CheckpointError(
        f"{name} is a zip archive, but not a PyTorch checkpoint",
        tip=f"unpack it; it holds {min(inside)}" if inside else None,
    )


_DESCRIPTOR = re.compile(r"/dev/(?:stdin|fd/(\d{1,9}))|/proc/self/fd/(\d{1,9})")
"""The names that a shell gives to pipes it opens for this process: `<(command)`, /dev/stdin."""


@contextmanager
def as_file(source: str | Path) -> Iterator[tuple[Path, str]]:
    """Yield a path to a regular file or a folder, and its name for messages.

    Standard input (`-`) and pipes that are open already go through a temporary file. A pipe in
    the file system is refused, because it may never be written to.

    Raises:
        CheckpointError: there is nothing of that name, or it is not a file.
    """
    if str(source) == "-":
        with received(standard_input(), _judge("standard input")) as path:
            yield path, "standard input"
    elif (descriptor := _open_pipe(source)) is not None:
        # The descriptor is duplicated, because opening its name again can wait for a writer.
        with (
            os.fdopen(os.dup(descriptor), "rb") as pipe,
            received(pipe, _judge(str(source))) as path,
        ):
            yield path, str(source)
    else:
        path = Path(source)
        if not _is_folder(path):
            require_regular(path, CheckpointError)
        yield path, str(path)


def _judge(name: str) -> Callable[[bytes], object]:
    """Return a check that refuses streams which do not begin like a model and may never end."""
    return lambda beginning: kind_of_beginning(beginning, sys.maxsize, name)


def _open_pipe(source: str | Path) -> int | None:
    """Return the descriptor that a name stands for; None if it is not a pipe or a socket."""
    found = _DESCRIPTOR.fullmatch(str(source))
    if found is None:
        return None
    descriptor = int(found[1] or found[2] or 0)
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return None  # it is not open, so the name is refused like any other
    return descriptor if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Turn errors in reading a file into a CheckpointError that names it."""
    try:
        yield
    except TruncatedError as error:
        raise CheckpointError(f"{name} cannot be read: {error}", tip="fetch it again") from error
    except NeedsCodeError as error:
        raise UnsafeCheckpointError(
            f"{name} would have to run code: {error}"
            if not error.names
            else f"{name}: {error}; loading it would run that code",
            tip="where it was made, save tensors only: torch.save(model.state_dict(), FILE), or "
            "safetensors. If you trust the file as you trust a program: --allow-pickle",
        ) from error
    except (MalformedError, UnsupportedError) as error:
        raise CheckpointError(f"{name} cannot be read: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror or error}") from error


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a model file.

    `tensors` is the state dict as it was found, including prefixes of wrappers. `document` is None
    unless this tool wrote the file. `nbytes` is the size of the file, or of all its parts. `folder`
    is the folder that was read; None for a file. `program` is the network itself, where the file
    holds it.
    """

    name: str
    tensors: dict[str, Tensor]
    document: Document | None
    nbytes: int
    folder: ModelFolder | None = None
    program: ProgramArchitecture | None = None


def read_checkpoint(
    source: str | Path, *, allow_pickle: bool = False, state_key: str | None = None
) -> Checkpoint:
    """Read a model file, a folder with one, or standard input if the source is `-`.

    No code in the file is run, and the cost of reading is bounded by the file's size: pickles go
    through an interpreter that knows tensors, NumPy arrays and plain values, but no code.

    Every tensor has memory of its own instead of a part of a mapped file, so that its memory is
    freed with the tensor, and the file may change or vanish.

    Args:
        source: the path of a file, of an index of several, or of a folder with either; a pipe
            that a shell has opened for this process may be named too.
        allow_pickle: whether to run pickled code, which can do anything that the user can.
        state_key: the entry of a training checkpoint to use, with dots for nested ones.

    Raises:
        UnsafeCheckpointError: the file holds pickled code and `allow_pickle` is False.
        CheckpointError: it cannot be read for any other reason.
    """
    with as_file(source) as (path, name):
        if not path.is_dir():
            return _read_model(path, name, state_key, allow_pickle=allow_pickle)
        file = model_in_folder(path)
        folder = describe_folder(path, file)
        found = _read_model(file, name, state_key, allow_pickle=allow_pickle)
        return replace(found, folder=folder)


def _read_model(file: Path, name: str, state_key: str | None, *, allow_pickle: bool) -> Checkpoint:
    """Read a model's file, or all the files that it lists."""
    kind = kind_of(file, name)
    if kind == "index":
        return _read_parts(file, name, allow_pickle=allow_pickle)
    nbytes = file.stat().st_size
    if kind == "program":
        tensors, program = _read_program(file, name)
        return Checkpoint(name, tensors, None, nbytes, program=program)
    loaded, document = _read_file(file, name, kind, allow_pickle=allow_pickle)
    if document is not None:
        tensors, described = _open_artefact(loaded, document, name)
        return Checkpoint(name, tensors, described, nbytes)
    found = _find(loaded, name, state_key)
    if found.others and state_key is None:
        logger.warning(
            "%s: used '%s'; it also holds %s (--state-key chooses)",
            name,
            ".".join(found.trail),
            ", ".join(f"'{other}'" for other in found.others),
        )
    return Checkpoint(name, found.tensors, None, nbytes)


def _find(loaded: object, name: str, state_key: str | None = None) -> FoundState:
    """Find the state dict in the content of a file; errors name the file."""
    try:
        return find_state_dict(loaded, state_key)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error.message}", tip=error.tip) from error


def _read_file(
    path: Path, name: str, kind: str, *, allow_pickle: bool
) -> tuple[object, object | None]:
    """Read one file, and return its content and its document if this tool wrote it."""
    if kind == "safetensors":
        with refusals(name):
            tensors, metadata = read_safetensors(path)
        if not tensors:
            raise CheckpointError(f"{name} holds no tensors")
        return tensors, metadata.get(DOCUMENT_KEY)
    loaded = _read_pickled(path, name, kind, allow_pickle=allow_pickle)
    if isinstance(loaded, Mapping) and DOCUMENT_KEY in loaded:
        return loaded.get("state_dict"), loaded[DOCUMENT_KEY]
    return loaded, None


def _read_parts(path: Path, name: str, *, allow_pickle: bool) -> Checkpoint:
    """Read all tensors that an index lists, from the files that it names."""
    tensors: dict[str, Tensor] = {}
    nbytes = 0
    parts, metadata = read_index(path, name)
    for shard, listed in parts.items():
        part = path.parent / shard
        kind = kind_of(part, str(part))
        if kind in {"index", "program"}:
            raise CheckpointError(f"{part} is a whole model of its own, not a part of one")
        loaded, _ = _read_file(part, str(part), kind, allow_pickle=allow_pickle)
        found = _find(loaded, str(part)).tensors
        require_listed(name, str(part), listed, found)
        tensors |= {tensor: found[tensor] for tensor in listed}
        nbytes += part.stat().st_size
    if DOCUMENT_KEY not in metadata:
        return Checkpoint(name, tensors, None, nbytes)
    tensors, document = _open_artefact(tensors, metadata[DOCUMENT_KEY], name)
    return Checkpoint(name, tensors, document, nbytes)


def _read_program(path: Path, name: str) -> tuple[dict[str, Tensor], ProgramArchitecture]:
    """Read a program of `torch.export` and its tensors."""
    from alds_cli.checkpoint.program_files import read_program  # noqa: PLC0415 - as below
    from alds_cli.checkpoint.torch_files import read_archive  # noqa: PLC0415

    with refusals(name):
        return read_program(path, read_archive)


def _read_pickled(path: Path, name: str, kind: str, *, allow_pickle: bool) -> object:
    """Read the content of a PyTorch checkpoint or a plain pickle."""
    # Imported only for pickles, because safetensors needs none of it.
    from alds_cli.checkpoint.torch_files import (  # noqa: PLC0415
        is_legacy,
        read_archive,
        read_pickle,
    )

    try:
        with refusals(name):
            return read_archive(path) if kind == "zip" else read_pickle(path)
    except CheckpointError as error:
        if not allow_pickle:
            raise
        logger.info("%s; running the code in it, as allowed", error.message)
    return _run_pickle(path, name, plain=kind == "pickle" and not is_legacy(path))


def _run_pickle(path: Path, name: str, *, plain: bool) -> Any:
    """Load a pickle and run the code in it; every failure becomes a CheckpointError."""
    try:
        # An open file, because torch judges some suffixes instead of the content.
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # deprecations in old tensors do not concern the user
            if plain:
                return pickle.load(file, encoding="latin1")  # noqa: S301 - the user allowed it
            return torch.load(file, map_location="cpu", weights_only=False)
    except MemoryError:
        raise
    except Exception as error:
        # Code in the file may raise anything.
        raise CheckpointError(f"{name} cannot be read: {first_line(error)}") from error


def _open_artefact(
    tensors: object, document: object, name: str
) -> tuple[dict[str, Tensor], Document]:
    if not isinstance(document, str) or not isinstance(tensors, Mapping):
        raise CheckpointError(f"{name} calls itself an alds artefact, but is incomplete")
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{name} calls itself an alds artefact, but holds more than tensors")
    return dict(tensors), parse_document(document, name)
