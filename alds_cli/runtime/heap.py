"""Memory that the C library keeps after it was freed, and how it is returned to the system."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LARGE_BLOCK = 4 << 20
"""The size in bytes from which freed blocks return to the system while jobs run."""

_GLIBC_LARGEST_THRESHOLD = 32 << 20

_GLIBC_FIRST_TRIM = 128 << 10

_M_TRIM_THRESHOLD = -1

_M_MMAP_THRESHOLD = -3

_lock = threading.Lock()

_asked: list[int] = []
"""The sizes that were asked for and still are in force, of which the least counts."""

_suspended: list[bool] = []
"""An entry for each block of code within which none of them counts."""


@contextmanager
def large_blocks_apart(least: int = LARGE_BLOCK) -> Iterator[None]:
    """Prevent glibc from keeping freed memory: its pools, one a thread, hold blocks up to 32 MiB.

    By itself it raises its thresholds with the largest block ever freed; afterwards they are set
    to the highest values that it would raise them to. If free memory at the top were still
    trimmed at once, every large activation of a network run later would cost page faults.

    Args:
        least: the size in bytes from which freed blocks return at once. Within another such
            block of code, the lesser of both sizes counts.
    """
    with _lock:
        _asked.append(least)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _asked.remove(least)
            _apply()
        give_back()


@contextmanager
def all_blocks_kept() -> Iterator[None]:
    """Let freed memory stay with the process, whatever was asked for around it.

    A network whose activations lie in fresh memory each time would seem slower than it is.
    """
    with _lock:
        _suspended.append(True)
        if _asked:
            _apply()
    try:
        yield
    finally:
        with _lock:
            _suspended.pop()
            if _asked:
                _apply()


def _apply() -> None:
    mallopt = _libc("mallopt")
    apart = bool(_asked) and not _suspended
    mallopt(_M_MMAP_THRESHOLD, min(_asked) if apart else _GLIBC_LARGEST_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _GLIBC_FIRST_TRIM if apart else 2 * _GLIBC_LARGEST_THRESHOLD)


def give_back() -> None:
    """Return free memory to the system; smaller blocks that are freed stay in the pools."""
    _libc("malloc_trim")(0)


def _libc(name: str) -> Callable[..., object]:
    """Return a function of the C library, or one that does nothing where there is no glibc."""
    found = getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
    return found or (lambda *_: None)
