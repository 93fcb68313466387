"""The error tables of a network of seven billion parameters, planned from one layer of each shape.

The linear layers of Llama 2 7B have four shapes. The time of a layer's tables is planned as that
of a small square layer times the ratio of their costs: Σ k·min(f, d/k)³ for the eigenvalues, whose
time grows no faster than that (see `cost.py`), and f·d·min(f, d) for the Gram matrices, which count
where a layer is far from square. One layer of random weights of each shape is measured beside it,
on one thread. All layers of a shape take the same, so their numbers give the whole network.

Bar: no shape takes longer than was planned.

    python benchmarks/seven_billion.py
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from common import print_bar, print_table

from alds_cli.numerics.fold import slicings
from alds_cli.numerics.spectra import SpectraJob
from alds_cli.records import LayerSpec
from alds_cli.runtime.pool import run_jobs

SHAPES = {
    "attention": (4096, 4096, 4 * 32),
    "gate and up": (11008, 4096, 2 * 32),
    "output": (32000, 4096, 1),
    "down": (4096, 11008, 32),
}
"""Outputs, inputs, and how many such layers the network has."""


def spec_of(outputs: int, inputs: int) -> LayerSpec:
    """Describe a linear layer."""
    return LayerSpec("layer", "linear", outputs, inputs)


def cost(spec: LayerSpec) -> float:
    """Σ k·min(f, d/k)³ over the numbers of slices that its table holds, and f·d·min(f, d)."""
    outputs, inputs = spec.weight_shape
    eigenvalues = sum(k * min(outputs, inputs // k) ** 3 for k in slicings(spec, 0))
    return float(eigenvalues + outputs * inputs * min(outputs, inputs))


def seconds(spec: LayerSpec) -> float:
    """Time of a layer's tables, of random weights."""
    outputs, inputs = spec.weight_shape
    matrix = torch.randn(outputs, inputs, 1, generator=torch.Generator().manual_seed(0))
    job = SpectraJob(matrix, slicings(spec, 0))
    start = time.perf_counter()
    run_jobs([job])
    job.curves()
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print what was planned beside it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--small", type=int, default=1024, help="width of the small layer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = spec_of(options.small, options.small)
    unit = min(seconds(small) for _ in range(3)) / cost(small)
    rows, kept, hours = [], True, 0.0
    for name in options.shapes:
        outputs, inputs, count = SHAPES[name]
        spec = spec_of(outputs, inputs)
        planned, found = unit * cost(spec), seconds(spec)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        kept, hours = kept and found <= planned, hours + count * found / 3600
        shape = f"{outputs:,} × {inputs:,}"
        row = [shape, str(count), f"{planned:.0f} s", f"{found:.0f} s", f"{peak:.1f} GiB"]
        print("  ".join([name, *row]), flush=True)
        rows.append(row)
    print_table(["shape", "layers", "planned", "measured", "memory so far"], rows)
    print(f"all of these layers on one thread: {hours:.2f} hours")
    print_bar("no shape takes longer than was planned", kept)


if __name__ == "__main__":
    main()
