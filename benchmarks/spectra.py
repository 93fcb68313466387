"""Time of all error tables of a network, from Gram matrices against `svdvals` slice by slice.

Every number of slices that divides the input channels of a group; `svdvals` with all cores or
with one, whichever is faster. Runs of the two take turns; their medians are compared.

Bars: how many times as long `svdvals` must take, by network; the seconds that a VGG16 may take,
by the number of threads; and how many times as long as scheme 0 all schemes of a ResNet18 may.

    python benchmarks/spectra.py resnet18 resnet50 mobilenet_v2
    python benchmarks/spectra.py alexnet --repeats 5 --svdvals-repeats 1
    python benchmarks/spectra.py vgg16 --svdvals-repeats 0
    python benchmarks/spectra.py vgg16 --svdvals-repeats 0 --threads 2
    python benchmarks/spectra.py resnet18 --schemes 0,1,2,3 --svdvals-repeats 0
    python benchmarks/spectra.py resnet50 vgg16 --svdvals-repeats 0 --device cuda
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch
from common import fresh_network, print_bar, print_table
from torch import Tensor, nn

from alds_cli.network.opening import trace_network
from alds_cli.numerics.fold import divisors, fold
from alds_cli.profiling import error_tables
from alds_cli.records import ErrorTable, LayerSpec
from alds_cli.surgery import find_layers, weight_at

TIMES_FASTER = {"resnet18": 8.0, "resnet50": 8.0, "alexnet": 20.0, "mobilenet_v2": 6.0}
SECONDS = {("vgg16", 4): 60.0, ("vgg16", 2): 120.0}
TIMES_SCHEME_0 = {"resnet18": 5.0}

Values = dict[tuple[str, int], Tensor]


def by_svdvals(matrices: dict[str, tuple[Tensor, int]]) -> Values:
    """Singular values (groups · k, n) of every slice, by layer and k."""
    return {
        (name, k): torch.stack(
            [
                torch.linalg.svdvals(part.flatten(1))
                for group in matrix.chunk(groups)
                for part in group.chunk(k, dim=1)
            ]
        )
        for name, (matrix, groups) in matrices.items()
        for k in divisors(matrix.shape[1])
    }


def fastest_svdvals(matrices: dict[str, tuple[Tensor, int]]) -> tuple[Values, float]:
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


def disagreement(tables: ErrorTable, values: Values) -> float:
    """The largest difference of max_i σ_{i,j+1} over all options, relative to the layer's σ_1."""
    worst = 0.0
    for (name, k), sigma in values.items():
        layer = tables.layers[name]
        own = (layer.choices[:, 0] == 0) & (layer.choices[:, 1] == k)
        ranks = layer.choices[own, 2]
        expected = np.append(sigma.double().amax(dim=0).numpy(), 0.0)[ranks]
        if len(ranks):
            worst = max(worst, float(np.abs(layer.largest[own] - expected).max() / layer.norms[0]))
    return worst


def seconds_of_tables(
    module: nn.Module, specs: dict[str, LayerSpec], schemes: tuple[int, ...], device: torch.device
) -> tuple[ErrorTable, float]:
    """The tables of these schemes, and how long they took."""
    start = time.perf_counter()
    tables, _ = error_tables(module, specs, schemes=schemes, cache=False, device=device)
    return tables, time.perf_counter() - start


def measure(
    name: str,
    repeats: int,
    svd_repeats: int,
    schemes: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[list[str], list[tuple[str, bool]]]:
    """A network's row of the table, and its bars."""
    network = fresh_network(name)
    module, specs = network.module, find_layers(network.module, trace_network(network))
    matrices = {
        own: (fold(weight_at(module, own), 0).to(dtype), spec.groups)
        for own, spec in specs.items()
        if spec.reason is None
    }
    ours, theirs, all_schemes, apart = [], [], [], 0.0
    for turn in range(max(repeats, svd_repeats)):
        tables, seconds = seconds_of_tables(module, specs, (0,), device)
        ours.append(seconds)
        if schemes != (0,):
            all_schemes.append(seconds_of_tables(module, specs, schemes, device)[1])
        if turn < svd_repeats:
            values, seconds = fastest_svdvals(matrices)
            theirs.append(seconds)
            apart = max(apart, disagreement(tables, values))
    own, bars = median(ours), []
    times = median(theirs) / own if theirs else float("nan")
    more = median(all_schemes) / own if all_schemes else float("nan")
    if theirs and (least := TIMES_FASTER.get(name)):
        bars.append((f"{name}: svdvals takes at least {least:g} times as long", times >= least))
    if most := SECONDS.get((name, torch.get_num_threads())):
        bars.append((f"{name}: at most {most:g} s", own <= most))
    if all_schemes and (most := TIMES_SCHEME_0.get(name)):
        bars.append((f"{name}: all schemes in {most:g} times the time of scheme 0", more <= most))
    row = [
        name,
        f"{own:.3f}",
        f"{min(ours):.3f} to {max(ours):.3f}",
        f"{median(theirs):.2f}" if theirs else "-",
        f"{times:.1f}" if theirs else "-",
        f"{apart:.1e}" if theirs else "-",
        f"{median(all_schemes):.2f}" if all_schemes else "-",
        f"{more:.1f}" if all_schemes else "-",
    ]
    return row, bars


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=["resnet18", "resnet50", "mobilenet_v2"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--svdvals-repeats", type=int, help="--repeats, if not given; 0 for none")
    parser.add_argument("--schemes", default="0", help="also time these together, like 0,1,2,3")
    parser.add_argument("--threads", type=int, help="as many as torch takes, if not given")
    parser.add_argument("--dtype", default="float32", help="of svdvals; the tables use float64")
    parser.add_argument("--device", default="cpu", help="of the tables; svdvals is on the CPU")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    svd_repeats = options.repeats if options.svdvals_repeats is None else options.svdvals_repeats
    schemes = tuple(int(scheme) for scheme in options.schemes.split(","))
    dtype = getattr(torch, options.dtype)
    device = torch.device(options.device)
    found = [
        measure(name, options.repeats, svd_repeats, schemes, dtype, device)
        for name in options.networks
    ]
    header = ["network", "tables s", "range", "svdvals s", "times", "apart"]
    header += [f"schemes {options.schemes} s", "times scheme 0"]
    print_table(header, [row for row, _ in found])
    for _, bars in found:
        for bar, holds in bars:
            print_bar(bar, holds)


if __name__ == "__main__":
    main()
