"""The memory of a process, as Linux tells it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def held(what):
    """Return the bytes of a kind that this process holds, such as VmRSS, or the peak VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) << 10
    raise AssertionError(what)


def own_bytes():
    """Return the bytes of this process's memory that belong to no file."""
    return held("RssAnon")
