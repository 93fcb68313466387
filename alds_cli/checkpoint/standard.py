"""Standard input and output as places for files."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from alds_cli.checkpoint.atomic import copy_stream
from alds_cli.errors import AldsError, CheckpointError, OutputError

_carried: list[IO[bytes]] = []
"""At most one stream, that of the command that runs."""


def carry_output(stream: IO[bytes] | None) -> None:
    """Have files named `-` written to a stream; None has them written to Python's output."""
    _carried[:] = [] if stream is None else [stream]


@contextmanager
def sent_on() -> Iterator[Path]:
    """A temporary file that goes to standard output when the block ends well.

    Raises:
        OutputError: there is no standard output that takes bytes, or one of the two cannot
            be written.
    """
    sink = _carried[0] if _carried else getattr(sys.stdout, "buffer", None)
    if sink is None:
        raise OutputError("standard output takes no files here", tip="name a file")
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
    """The stream that a file named `-` is read from.

    Raises:
        CheckpointError: there is none that gives bytes.
    """
    source: IO[bytes] | None = getattr(sys.stdin, "buffer", None)
    if source is None:
        raise CheckpointError("there is no standard input here", tip="name a file")
    return source


@contextmanager
def received(stream: IO[bytes], judge: Callable[[bytes], object]) -> Iterator[Path]:
    """A temporary file with what a stream holds.

    Args:
        stream: read to its end.
        judge: gets the beginning before anything is kept, and raises what ends the reading.

    Raises:
        CheckpointError: the stream cannot be read, or what it holds not be kept.
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
    """What to say where the temporary file for a standard stream cannot be written."""
    folder = tempfile.tempdir or "the folder for temporary files"
    return refusal(
        f"cannot write a temporary file in {folder}: {error.strerror or error}",
        tip="name a folder with room for it by the environment variable TMPDIR",
    )
