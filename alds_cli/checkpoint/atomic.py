"""Files that appear complete under their final name or not at all."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from alds_cli.errors import OutputError


def require_writable(path: Path) -> None:
    """Find out before the work starts that its result can be written.

    Raises:
        OutputError: the folder is missing or not writable, or a folder stands at the path.
    """
    folder = path.parent
    try:
        path.resolve().stat()
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL
        raise OutputError(f"cannot write {path}: {_reason(error)}") from error
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder", tip="name a file in it")
    if not folder.exists():
        raise OutputError(
            f"cannot write {path}: the folder {folder} does not exist", tip=f"mkdir -p {folder}"
        )
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: {folder} is not a folder")
    target = path if _is_special(path) else folder
    if not os.access(target, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write to {target}")


def make_folder(folder: Path) -> None:
    """Make a folder and those it lies in, where they are missing.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {_reason(error)}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well.

    The new file is flushed to the disk first, so that not even a power cut leaves half
    of it. Devices and pipes, which cannot be replaced, are written to afterwards.

    Raises:
        OutputError: the disk is full, or the file cannot be written for another reason.
    """
    special = _is_special(path)
    # Replace what a symbolic link points to, not the link; but where one leads to a pipe
    # (/dev/stdout), only the link itself can be opened.
    target = path if special else path.resolve()
    temporary: Path | None = None
    try:
        folder = None if special else target.parent
        prefix = f".{target.name[:48]}."  # not beyond the length that a name may have
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".partial", dir=folder)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        if special:
            with temporary.open("rb") as source, target.open("wb") as sink:
                copy_stream(source, sink)
        else:
            _take_over(temporary, target)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def require_apart(outputs: Iterable[str | Path], inputs: Iterable[str | Path] = ()) -> None:
    """Find out before the work starts that no result replaces another, or an input.

    Args:
        outputs: files that will be written.
        inputs: files that must not be replaced. `-`, devices and pipes are no such files.

    Raises:
        OutputError: two of them are one file, or two results go to one stream.
    """
    taken = {_whole(Path(own)): "the work begins with that file" for own in inputs}
    for output in outputs:
        place = Path(output) if str(output) == "-" else _whole(Path(output))
        if place in taken:
            raise OutputError(f"cannot write {output}: {taken[place]}", tip="name another file")
        taken[place] = "another result is written there"


def _whole(path: Path) -> Path:
    """A path without links; as it is where it leads nowhere."""
    with suppress(OSError, RuntimeError, ValueError):
        return path.resolve()
    return path


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"\(os error ([0-9]{1,5})\)", str(error))  # as Rust names the system's
    return os.strerror(int(number[1])) if number else str(error)


def copy_stream(source: IO[bytes], sink: IO[bytes]) -> None:
    """Copy in pieces of a size that keeps memory small."""
    while piece := source.read(1 << 20):
        sink.write(piece)
    sink.flush()


def _take_over(temporary: Path, path: Path) -> None:
    """Give the temporary file the mode the user's umask asks for, and the final name."""
    if path.exists():
        temporary.chmod(stat.S_IMODE(path.stat().st_mode))
    else:
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_special(path: Path) -> bool:
    """Whether the path is a device, pipe or socket."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False
