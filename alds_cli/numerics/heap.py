"""Memory that is given back to the system when it is freed."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_APART = 4 << 20
"""While jobs run, blocks of so many bytes return to the system when they are freed."""

_GLIBC_LARGEST_THRESHOLD = 32 << 20
_GLIBC_FIRST_TRIM = 128 << 10
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Keep glibc from hoarding: its pools, one a thread, hold on to blocks of up to 32 MiB.

    Its thresholds grow by themselves with the largest block ever freed; there they are left.
    Were free memory at the top still trimmed at once, every large activation of a network
    run later would be paid for in page faults.
    """
    mallopt = _libc("mallopt")
    mallopt(_M_MMAP_THRESHOLD, _APART)
    mallopt(_M_TRIM_THRESHOLD, _GLIBC_FIRST_TRIM)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _GLIBC_LARGEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2 * _GLIBC_LARGEST_THRESHOLD)
        give_back()


def give_back() -> None:
    """Return what is free to the system; smaller blocks that are freed stay in the pools."""
    _libc("malloc_trim")(0)


def _libc(name: str) -> Callable[..., object]:
    """A function of the C library; one that does nothing where it is not glibc."""
    found = getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
    return found or (lambda *_: None)
