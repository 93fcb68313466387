"""Claims on pieces of work that several processes share through a folder.

A claim is an advisory lock of the operating system on an empty file. It ends with the process
that holds it, however that ends, so nothing has to be cleaned up after a crash. On a file system
that hosts share, it also holds between the hosts if the file system passes locks on.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alds_cli.checkpoint.files import make_folder
from alds_cli.errors import OutputError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""The errors of file systems without locks."""


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the claim that a file stands for while the block runs.

    The file and its folder are made if they are missing, and the file is removed at the end. If
    the system or the file system has no locks, every claim is granted: work may then be done
    twice, but never wrongly.

    Args:
        path: the path of the file.
        wait: whether to wait until the claim is free.

    Yields:
        Whether the claim was granted, which it always is with `wait`.

    Raises:
        OutputError: the file cannot be made.
    """
    handle = _locked(path, wait=wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            # While it is still locked, so that processes which opened it notice that it is gone.
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def _locked(path: Path, *, wait: bool) -> int | None:
    """Open and lock the file, and return its descriptor; None if another process has the lock."""
    while True:
        make_folder(path.parent)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # another process has just removed the folder
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        try:
            granted = _lock(handle, path, wait=wait)
            current = granted and _is_still(handle, path)
        except BaseException:
            os.close(handle)
            raise
        if current:
            return handle
        os.close(handle)
        if not granted:
            return None


def _lock(handle: int, path: Path, *, wait: bool) -> bool:
    """Return whether the lock was granted."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OutputError(f"cannot lock {path}: {error.strerror}") from error
        logger.warning(
            "the file system of %s has no locks; let one process at a time work there", path.parent
        )
    return True


def _is_still(handle: int, path: Path) -> bool:
    """Return whether the path still names the open file, which its last holder may have removed."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
