"""What may be opened for reading: regular files, of a size that can be meant."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from alds_cli.errors import AldsError

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
