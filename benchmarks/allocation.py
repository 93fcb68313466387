"""Time of an allocation from ready tables: options, frontiers and the solution, for one budget.

Bars: the exact solver under 5 ms for a ResNet18, under 50 ms for 300 layers with all schemes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
from common import fresh_network, print_bar, print_table

from alds_cli.allocation import (
    Allocation,
    LayerOptions,
    alternating,
    knapsack,
    layer_options,
    minimax,
)
from alds_cli.network.networks import Network
from alds_cli.numerics.fold import divisors, full_rank
from alds_cli.numerics.spectra import empty_table, with_scheme
from alds_cli.profiling import error_tables
from alds_cli.records import Curve, LayerSpec, LayerTable
from alds_cli.surgery import find_layers

ALL_SCHEMES = (0, 1, 2, 3)
BARS_MS = {"ResNet18": 5.0, "ResNet18, all schemes": 5.0, "300 layers, all schemes": 50.0}


def profiled(network: Network, schemes: Sequence[int] = (0,)) -> list[LayerTable]:
    """The tables of a network's layers."""
    specs = find_layers(network.module)
    return list(
        error_tables(network.module, specs, schemes=schemes, cache=False)[0].layers.values()
    )


def synthetic(count: int) -> list[LayerTable]:
    """Tables of layers that were never trained nor even filled: decaying random spectra."""
    generator = np.random.default_rng(0)
    return [_synthetic_layer(f"layer{number}", generator) for number in range(count)]


def _synthetic_layer(name: str, generator: np.random.Generator) -> LayerTable:
    rows, columns = (int(width) for width in generator.choice([128, 256, 512], 2))
    spec = LayerSpec(name, "conv2d", rows, columns, (3, 3))
    table = empty_table(spec)
    decay = generator.uniform(0.5, 3.0)
    for scheme in ALL_SCHEMES:
        curves = {}
        for k in divisors(columns):
            full = full_rank(spec.weight_shape, scheme, k)
            sigma = (1 - np.arange(full + 1) / full) ** decay
            sigma = sigma[:, None] * generator.uniform(0.8, 1.0, (1, k)) / np.sqrt(k)
            squares = np.square(sigma).sum(axis=1)
            tail = squares[::-1].cumsum()[::-1].copy()
            curves[k] = Curve(squares, sigma.max(axis=1), tail, squares)
        table = with_scheme(table, scheme, float(curves[1].largest[0]), curves, 0.0)
    return table


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median over the repeats."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def measure(
    name: str, tables: Sequence[LayerTable], schemes: Sequence[int], ratio: float, repeats: int
) -> list[list[str]]:
    """One row for each error definition."""
    budget = int((1 - ratio) * sum(table.spec.weight_params for table in tables))
    rows = []
    for bound in ("density", "sum", "frobenius"):

        def ready(bound: str = bound) -> list[LayerOptions]:
            return [layer_options(table, bound=bound, schemes=schemes) for table in tables]

        def least_sum() -> Allocation:
            return knapsack(
                [replace(own, errors=np.square(own.errors)) for own in ready()], [budget]
            )

        found = least_sum()
        rows.append(
            [
                name,
                bound,
                str(len(tables)),
                str(sum(len(own.errors) for own in ready())),
                f"{milliseconds(lambda: minimax(ready(), [budget]), repeats):.2f}",
                f"{milliseconds(least_sum, 5):.0f}",
                f"{found.gap / found.objective if found.objective else 0.0:.1e}",
                f"{milliseconds(lambda: alternating(ready(), [budget]), 1):.0f}",
            ]
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    resnet18 = fresh_network("resnet18")
    networks: dict[str, tuple[list[LayerTable], Sequence[int]]] = {
        "ResNet18": (profiled(resnet18), (0,)),
        "ResNet18, all schemes": (profiled(resnet18, ALL_SCHEMES), ALL_SCHEMES),
        "MobileNetV2": (profiled(fresh_network("mobilenet_v2")), (0,)),
        "300 layers, all schemes": (synthetic(300), ALL_SCHEMES),
    }
    rows = []
    for name, (tables, schemes) in networks.items():
        rows += measure(name, tables, schemes, options.ratio, options.repeats)
    header = [
        "network",
        "error",
        "layers",
        "options",
        "exact ms",
        "sum ms",
        "gap",
        "Algorithm 1 ms",
    ]
    print_table(header, rows)
    for name, bar in BARS_MS.items():
        slowest = max(float(row[4]) for row in rows if row[0] == name)
        print_bar(f"exact under {bar:g} ms for {name}", slowest < bar)


if __name__ == "__main__":
    main()
