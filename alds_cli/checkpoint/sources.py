"""From what stands on the command line to a file that can be read: paths, `-`, named pipes."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alds_cli.checkpoint.kinds import kind_of_beginning
from alds_cli.checkpoint.regular import require_regular
from alds_cli.checkpoint.standard import received, standard_input
from alds_cli.errors import CheckpointError

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
