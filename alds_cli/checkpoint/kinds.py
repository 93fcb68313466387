"""What kind of model file a file is: its first bytes decide, not its suffix."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alds_cli.checkpoint.archives import Archive
from alds_cli.checkpoint.files import received, standard_input
from alds_cli.checkpoint.pickles import (
    MalformedError,
    NeedsCodeError,
    TruncatedError,
    UnsupportedError,
)
from alds_cli.errors import AldsError, CheckpointError, UnsafeCheckpointError

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


_DESCRIPTOR = re.compile(r"/dev/(?:stdin|fd/(\d{1,9}))|/proc/self/fd/(\d{1,9})")
"""How a shell names a pipe that it has opened for this process: `<(command)`, /dev/stdin."""


@contextmanager
def as_file(source: str | Path) -> Iterator[tuple[Path, str]]:
    """A path to a regular file or a folder, and the name to call it by.

    Standard input (`-`) and pipes that are open already go through a temporary file. A pipe in
    the file system is refused: nobody may ever write to it.

    Raises:
        CheckpointError: there is nothing of that name, or it is no file.
    """
    if str(source) == "-":
        with received(standard_input(), _judge("standard input")) as path:
            yield path, "standard input"
    elif (descriptor := _open_pipe(source)) is not None:
        # A copy of the descriptor, because opening its name again can wait for a writer.
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
    """Refuse a stream that begins like no model: it may never end."""
    return lambda beginning: kind_of_beginning(beginning, sys.maxsize, name)


def _open_pipe(source: str | Path) -> int | None:
    """The descriptor that a name stands for, where that is a pipe or a socket."""
    found = _DESCRIPTOR.fullmatch(str(source))
    if found is None:
        return None
    descriptor = int(found[1] or found[2] or 0)
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return None  # there is none; the name is refused like any other
    return descriptor if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Say of a file what is wrong with it."""
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


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular(path: Path, refusal: type[AldsError], *, most: int | None = None) -> int:
    """Refuse what is no regular file, before anything opens it and waits, or reads for ever.

    Args:
        path: of the file; links are followed.
        refusal: the error to raise.
        most: the largest number of bytes that makes sense; None sets no limit.

    Returns:
        The file's size in bytes.

    Raises:
        AldsError: of the type `refusal`; there is no file, it is a folder, pipe or device, or
            it is larger than `most`.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, ValueError) as error:  # a name with a NUL in it is nobody's
        raise refusal(f"{path}: no such file") from error
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise refusal(f"{path}: {reason or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise refusal(f"{path} is {kind}, not a file")
    if most is not None and status.st_size > most:
        raise refusal(
            f"{path} has {status.st_size:,} bytes, more than the {most:,} that such a file may have"
        )
    if not os.access(path, os.R_OK):
        raise refusal(f"{path}: no permission to read it")
    return status.st_size
