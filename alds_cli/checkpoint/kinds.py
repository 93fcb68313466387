"""What kind of model file a file is: its first bytes decide, not its suffix."""

from __future__ import annotations

import os
from pathlib import Path

from alds_cli.checkpoint.archives import Archive
from alds_cli.checkpoint.refusals import refusals
from alds_cli.errors import CheckpointError

_OTHER_FORMATS = (
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
"""Bytes at the beginning that tell what a file is."""


def kind_of(path: Path, name: str) -> str:
    """`zip`, `pickle`, `safetensors` or `index`, from the first bytes.

    Raises:
        CheckpointError: it is none of them; the message says what it is where that is known.
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
            _refuse_other_archives(path, name)
    return kind


def kind_of_beginning(head: bytes, size: int, name: str) -> str:
    """The kind, from the first bytes alone.

    Args:
        head: at least 32 bytes, where there are as many.
        size: of the whole file, or what it can be at most.
        name: what to call it.

    Raises:
        CheckpointError: it is none of them.
    """
    head = head[:_HEAD]
    if not head:
        raise CheckpointError(f"{name} is empty")
    # First, for its first bytes are a length, which may look like any other format's mark. Read as
    # a length, those are beyond the end of any file.
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


def _refuse_other_archives(path: Path, name: str) -> None:
    """Tell apart what else comes as a zip archive."""
    with Archive(path) as archive:
        members = archive.names
    if "constants.pkl" in members and any(member.startswith("code/") for member in members):
        raise CheckpointError(
            f"{name} is a TorchScript archive: it holds a program, not a state dict",
            tip="save its tensors: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')",
        )
    if any(member.endswith(("archive_format", "exported_program.json")) for member in members):
        raise CheckpointError(
            f"{name} is a program that torch.export has written, not a state dict",
            tip="save its tensors: torch.save(torch.export.load(FILE).state_dict, 'weights.pt')",
        )
    if "data.pkl" in members:
        return
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
