"""Claims on pieces of work that several processes share through a folder.

A claim is an advisory lock of the operating system on an empty file. It vanishes with the
process that holds it, however that ends, so nothing has to be tidied up after a crash; on a
file system that hosts share it also holds between hosts, where it passes locks on.
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
"""What file systems answer that know no locks."""


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the claim that a file stands for while the block runs.

    The file and its folder are made where they are missing, and the file is removed at the end.
    Where the system or the file system has no locks, every claim is granted: work may then be
    done twice, never wrongly.

    Args:
        path: the file.
        wait: until whoever holds the claim is done with it.

    Yields:
        Whether the claim was granted; always if `wait`.

    Raises:
        OutputError: the file cannot be made.
    """
    handle = _locked(path, wait=wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            # While it is still locked: who opened it meanwhile finds that it is gone.
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def _locked(path: Path, *, wait: bool) -> int | None:
    """The open, locked file; None where somebody else has it."""
    while True:
        make_folder(path.parent)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # somebody has just removed the folder
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
    """Whether the lock was granted."""
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
    """Whether the path names the open file; its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
