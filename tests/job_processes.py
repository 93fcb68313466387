"""Several processes that do one job together on this machine, by Gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing


def free_port():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_together(arguments, *, size=2, cwd=None, timeout=300, meanwhile=None):
    """Run `python ARGUMENTS` in processes of one job; return their exit codes and outputs.

    `meanwhile` is called with the processes once they are started.
    """
    shared = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        if meanwhile is not None:
            meanwhile(started)
        ends = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(own.returncode, *end) for own, end in zip(started, ends, strict=True)]
