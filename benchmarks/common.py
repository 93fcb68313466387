"""What the benchmarks share: networks, subprocesses with their peak memory, plain tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision

from alds_cli import api
from alds_cli.network.networks import Network, network_of
from alds_cli.records import ErrorTable

_PEAK = """
import json, sys
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({"peak": peak * 1024, **globals().get("result", {})}))
"""


def fresh_network(name: str, seed: int = 0) -> Network:
    """A torchvision network with its own random weights."""
    torch.manual_seed(seed)
    return network_of(torchvision.models.get_model(name, weights=None))


def tables_of(network: Network | Path) -> ErrorTable:
    """Error tables of a network or model file for all numbers of slices, not from the cache."""
    return api.profile(network, cache=False).table


def run_python(code: str, **environment: str) -> dict[str, Any]:
    """Run code in a new process: its dictionary `result`, and its peak memory as `peak`."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code + _PEAK],
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as needed, the first aligned to the left, and the number of cores."""
    widths = [max(len(row[at]) for row in (header, *rows)) for at in range(len(header))]
    for row in (header, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    print(f"({os.cpu_count()} cores, {torch.get_num_threads()} threads)")


def print_bar(bar: str, holds: bool) -> None:
    """State a bar and whether it holds."""
    print(f"bar: {bar}: {'holds' if holds else 'MISSED'}")
