"""Claims on pieces of work that several processes share through a folder.

A claim is an advisory lock of the operating system on an empty file. It vanishes with the
process that holds it, however that ends, so nothing has to be tidied up after a crash; on a
file system that hosts share it also holds between hosts, where it passes locks on.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from alds_cli.checkpoint.files import make_folder
from alds_cli.errors import OutputError

logger = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""The errors of file systems without locks."""


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the claim that a file stands for while the block runs.

    The file and its folder are made where they are missing, and the file is removed at the end.
    Where the file system has no locks, every claim is granted: work may then be done twice, never
    wrongly.

    Args:
        path: the file.
        wait: until whoever holds the claim is done with it.

    Yields:
        Whether the claim was granted; always if `wait`.

    Raises:
        OutputError: the file cannot be made.
    """
    # A soft lock is a file that stays where its process was killed.
    lock = FileLock(path, -1 if wait else 0, thread_local=False, fallback_to_soft=False)
    granted = _acquired(lock, path)
    try:
        yield granted
    finally:
        if lock.is_locked:
            # While it is still locked: who opened it meanwhile finds that it is gone.
            with suppress(OSError):
                path.unlink()
            lock.release()


def _acquired(lock: FileLock, path: Path) -> bool:
    """Return whether the claim was granted."""
    while True:
        make_folder(path.parent)
        try:
            lock.acquire()
        except Timeout:
            return False
        except FileNotFoundError:
            continue  # somebody has just removed the folder
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise OutputError(f"cannot lock {path}: {error.strerror}") from error
            logger.warning(
                "the file system of %s has no locks; let one process at a time work there",
                path.parent,
            )
        return True
