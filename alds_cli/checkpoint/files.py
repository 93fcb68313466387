"""Files on disk: checked before they are read, and written either completely or not at all."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from safetensors import SafetensorError

from alds_cli.errors import AldsError, CheckpointError, OutputError


class MalformedError(ValueError):
    """The bytes are not a sound file of their kind, or claim more than a file of their size may."""


class TruncatedError(MalformedError):
    """A part of the file is missing, or its bytes were changed in transit."""


class UnsupportedError(ValueError):
    """The file is sound, but of a kind that is not supported."""


class NeedsCodeError(UnsupportedError):
    """The pickle's content can only be made by running code.

    Attributes:
        names: the functions and classes that it refers to.
    """

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


def require_writable(path: Path) -> None:
    """Make sure, before the work starts, that its result can be written.

    Raises:
        OutputError: the folder is missing or not writable, or the path is a folder.
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
    """Make a folder and its parents if they are missing.

    Raises:
        OutputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {_reason(error)}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` that replaces it when the block ends without error.

    The new file is flushed to the disk first, so that not even a power cut leaves half
    of it. Devices and pipes, which cannot be replaced, are written to afterwards.

    Raises:
        OutputError: the disk is full, or the file cannot be written for another reason.
    """
    special = _is_special(path)
    # Replace the target of a symbolic link, not the link; but if the target is a pipe
    # (/dev/stdout), only the link itself can be opened.
    target = path if special else path.resolve()
    temporary: Path | None = None
    try:
        folder = None if special else target.parent
        prefix = f".{target.name[:48]}."  # within the greatest length of a name
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
    """Make sure, before the work starts, that no result replaces another or an input.

    Args:
        outputs: files that will be written.
        inputs: files that must not be replaced; `-`, devices and pipes are ignored.

    Raises:
        OutputError: two of them are the same file, or two results go to one stream.
    """
    taken = {_whole(Path(source)): "the work begins with that file" for source in inputs}
    for output in outputs:
        place = Path(output) if str(output) == "-" else _whole(Path(output))
        if place in taken:
            raise OutputError(f"cannot write {output}: {taken[place]}", tip="name another file")
        taken[place] = "another result is written there"


def _whole(path: Path) -> Path:
    """Resolve a path's links; a path that leads nowhere is returned as it is."""
    with suppress(OSError, RuntimeError, ValueError):
        return path.resolve()
    return path


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"\(os error ([0-9]{1,5})\)", str(error))  # how Rust writes system errors
    return os.strerror(int(number[1])) if number else str(error)


def copy_stream(source: IO[bytes], sink: IO[bytes]) -> None:
    """Copy a stream in pieces, to need little memory."""
    while piece := source.read(1 << 20):
        sink.write(piece)
    sink.flush()


def _take_over(temporary: Path, path: Path) -> None:
    """Give the temporary file the mode of the user's umask, and its final name."""
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
    """Make the new name itself durable, if the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _is_special(path: Path) -> bool:
    """Return whether the path is a device, pipe or socket."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def require_folder(folder: Path) -> None:
    """Make sure, before the work starts, that files can be written to a folder or it can be made.

    Raises:
        OutputError: the path is something else, the folder above is missing, or one of the
            two cannot be written to.
    """
    if folder.is_dir():
        require_writable(folder / "report")
    elif folder.exists():
        raise OutputError(f"cannot write to {folder}: it is not a folder", tip="name a folder")
    else:
        require_writable(folder)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by name, each of them completely; the folder is made if it is missing.

    If one cannot be written, a folder that was made is removed again.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    require_folder(folder)
    made = not folder.is_dir()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    try:
        for name, content in contents.items():
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)
    except BaseException:
        if made:
            with suppress(OSError):
                for name in contents:
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()
        raise


_carried: list[IO[bytes]] = []
"""At most one stream, which is that of the running command."""


def carry_output(stream: IO[bytes] | None) -> None:
    """Send files named `-` to a stream; None sends them to Python's standard output."""
    _carried[:] = [] if stream is None else [stream]


@contextmanager
def sent_on() -> Iterator[Path]:
    """Yield a temporary file that is copied to standard output if the block ends without error.

    Raises:
        OutputError: there is no standard output that takes bytes, or one of the two cannot
            be written.
    """
    sink = _carried[0] if _carried else getattr(sys.stdout, "buffer", None)
    if sink is None:
        raise OutputError("standard output cannot take files here", tip="name a file")
    try:
        folder = tempfile.TemporaryDirectory(prefix="alds-stdout-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room(error, OutputError) from error
    with folder:
        path = Path(folder.name) / "artefact.pt"
        yield path
        with path.open("rb") as source:
            copy_stream(source, sink)


def standard_input() -> IO[bytes]:
    """Return the stream that a file named `-` is read from.

    Raises:
        CheckpointError: there is no standard input that gives bytes.
    """
    source: IO[bytes] | None = getattr(sys.stdin, "buffer", None)
    if source is None:
        raise CheckpointError("there is no standard input here", tip="name a file")
    return source


@contextmanager
def received(stream: IO[bytes], judge: Callable[[bytes], object]) -> Iterator[Path]:
    """Yield a temporary file with the content of a stream.

    Args:
        stream: read to its end.
        judge: is called with the beginning before anything is kept, and may raise an error.

    Raises:
        CheckpointError: the stream cannot be read, or its content cannot be stored.
    """
    try:
        spooled = tempfile.NamedTemporaryFile(prefix="alds-stdin-")  # noqa: SIM115
    except OSError as error:
        raise _no_room(error, CheckpointError) from error
    with spooled:
        piece = _read(stream)
        judge(piece)
        while piece:
            try:
                spooled.write(piece)
                spooled.flush()
            except OSError as error:
                raise _no_room(error, CheckpointError) from error
            piece = _read(stream)
        yield Path(spooled.name)


def _read(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(1 << 20)
    except OSError as error:
        raise CheckpointError(f"the input cannot be read: {error.strerror or error}") from error


def _no_room(error: OSError, refusal: type[AldsError]) -> AldsError:
    """Return the error for a temporary file of a standard stream that cannot be written."""
    folder = tempfile.tempdir or "the folder for temporary files"
    return refusal(
        f"cannot write a temporary file in {folder}: {error.strerror or error}",
        tip="name a folder with room for it by the environment variable TMPDIR",
    )


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular(path: Path, refusal: type[AldsError], *, most: int | None = None) -> int:
    """Refuse what is not a regular file, because opening or reading it might never end.

    Args:
        path: the path of the file; links are followed.
        refusal: the error to raise.
        most: the largest size in bytes that makes sense; None sets no limit.

    Returns:
        The file's size in bytes.

    Raises:
        AldsError: of the type `refusal`; there is no file, it is a folder, pipe or device, or
            it is larger than `most`.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, ValueError) as error:  # no file has a name with a NUL in it
        raise refusal(f"{path}: no such file") from error
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise refusal(f"{path}: {reason or error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of another kind")
        raise refusal(f"{path} is {kind}, not a file")
    if most is not None and status.st_size > most:
        raise refusal(
            f"{path} has {status.st_size:,} bytes, more than the {most:,} that such a file may have"
        )
    if not os.access(path, os.R_OK):
        raise refusal(f"{path}: no permission to read it")
    return status.st_size


def fill(file: BinaryIO, target: memoryview) -> int:
    """Read until the target is full or the file ends, and return the number of bytes read."""
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done
