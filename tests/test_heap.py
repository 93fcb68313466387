"""Freed memory that returns to the system, each case in a process with a heap of its own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed blocks in this way"
)

BEFORE = """
import sys
sys.path.insert(0, {tests!r})
import proc_memory
from alds_cli.runtime.heap import large_blocks_apart

held = []

def kept(megabytes, count):
    '''Take blocks and free all but the last, below which the heap cannot shrink; return MiB.'''
    start = proc_memory.own_bytes()
    blocks = [bytearray(b"x" * int(megabytes * 2**20)) for _ in range(count)]
    held.append(blocks.pop())
    del blocks
    return (proc_memory.own_bytes() - start) / 2**20
"""


def printed(code):
    """Run code in a process of its own, and return the numbers that it prints."""
    script = BEFORE.format(tests=str(TESTS)) + code
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def test_blocks_from_the_size_on_return_at_once():
    code = """
kept(24, 2)  # glibc raises its threshold to the largest block that was freed
print(kept(2, 32))
with large_blocks_apart(1 << 20):
    print(kept(2, 32))
"""
    by_itself, apart = printed(code)
    assert by_itself > 40
    assert apart < 10


def test_the_least_size_counts_and_the_others_hold_again():
    code = """
with large_blocks_apart(1 << 20):
    with large_blocks_apart(8 << 20):
        print(kept(2, 32))
with large_blocks_apart(8 << 20):
    with large_blocks_apart(1 << 20):
        pass
    print(kept(2, 32), kept(16, 8))
"""
    within, outer, larger = printed(code)
    assert within < 10
    assert outer > 40
    assert larger < 40


def test_what_was_kept_returns_at_the_end():
    code = """
start = proc_memory.own_bytes()
with large_blocks_apart(8 << 20):
    kept(2, 32)
    print((proc_memory.own_bytes() - start) / 2**20)
print((proc_memory.own_bytes() - start) / 2**20)
"""
    within, after = printed(code)
    assert within > 40
    assert after < 10


def test_blocks_are_kept_while_something_is_timed():
    code = """
import torch
from alds_cli.runtime.devices import in_turns
found = []
with large_blocks_apart(1 << 20):
    cpu = torch.device("cpu")
    in_turns({"": lambda: found.append(kept(2, 32))}, cpu, rounds=1)
    print(found[0], kept(2, 32))
"""
    timed, afterwards = printed(code)
    assert timed > 40
    assert afterwards < 10
