"""Time of all error tables of a network, from Gram matrices against `svdvals` slice by slice.

Scheme 0, every number of slices that divides the input channels. Bar: a quarter of the
time of `svdvals`, with all cores or with one, whichever is faster.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from common import fresh_network, print_bar, print_table
from torch import Tensor

from alds_cli.api.models import trace_network
from alds_cli.numerics.costs import divisors
from alds_cli.numerics.fold import fold
from alds_cli.profiling import error_tables
from alds_cli.records import ErrorTable
from alds_cli.surgery import find_layers

BAR = 4.0


def by_svdvals(matrices: dict[str, Tensor]) -> dict[str, dict[int, Tensor]]:
    """Singular values (k, n) of every slice of every layer for every k."""
    return {
        name: {
            k: torch.stack(
                [torch.linalg.svdvals(part.flatten(1)) for part in matrix.chunk(k, dim=1)]
            )
            for k in divisors(matrix.shape[1])
        }
        for name, matrix in matrices.items()
    }


def fastest_svdvals(matrices: dict[str, Tensor]) -> tuple[dict[str, dict[int, Tensor]], float]:
    """The values, and the shorter of the times with all cores and with one.

    On small slices many threads hinder each other, the more so on a busy machine.
    """
    threads, seconds = torch.get_num_threads(), []
    for count in {threads, 1}:
        torch.set_num_threads(count)
        start = time.perf_counter()
        values = by_svdvals(matrices)
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return values, min(seconds)


def disagreement(tables: ErrorTable, values: dict[str, dict[int, Tensor]]) -> float:
    """The largest difference of Σ_i σ²_{i,j} and max_i σ_{i,j}, relative to the layer's σ_1."""
    worst = 0.0
    for name, by_k in values.items():
        layer = tables.layers[name]
        for k, sigma in by_k.items():
            found = torch.from_numpy(layer.curves[0, k].largest[:-1])
            own = sigma.double().max(dim=0).values
            worst = max(worst, float((found - own).abs().max() / layer.norms[0]))
    return worst


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["resnet18"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--svdvals-repeats", type=int, help="--repeats, if not given")
    options = parser.parse_args()
    svd_repeats = options.repeats if options.svdvals_repeats is None else options.svdvals_repeats
    rows, worst = [], float("inf")
    for name in options.networks:
        network = fresh_network(name)
        specs = find_layers(network.module, trace_network(network))
        wanted = [own for own, spec in specs.items() if spec.reason is None]
        matrices = {
            own: fold(network.module.get_submodule(own).weight.detach(), 0) for own in wanted
        }
        ours, theirs, apart = [], [], 0.0
        for turn in range(max(options.repeats, svd_repeats)):
            start = time.perf_counter()
            tables, _ = error_tables(network.module, specs, cache=False)
            ours.append(time.perf_counter() - start)
            if turn < svd_repeats:
                values, seconds = fastest_svdvals(matrices)
                theirs.append(seconds)
                apart = max(apart, disagreement(tables, values))
        times = median(theirs) / median(ours) if theirs else float("nan")
        worst = min(worst, times)
        rows.append(
            [
                name,
                f"{median(ours):.2f}",
                f"{median(theirs):.2f}" if theirs else "-",
                f"{times:.1f}",
                f"{apart:.1e}",
            ]
        )
    print_table(["network", "tables s", "svdvals s", "times", "apart"], rows)
    print_bar(f"svdvals takes at least {BAR:g} times as long", worst >= BAR)


if __name__ == "__main__":
    main()
