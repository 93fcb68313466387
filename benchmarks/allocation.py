"""Time of planning one ratio from ready tables: the exact solver against the alternating one.

Bar: under 50 ms with the exact solver for a ResNet18.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
from common import fresh_network, print_bar, print_table, tables_of

from alds_cli.allocation import layer_options
from alds_cli.architectures import build
from alds_cli.loading import network_of
from alds_cli.methods import alds
from alds_cli.numerics.costs import divisors
from alds_cli.records import Architecture, Curve, LayerSpec, LayerTable

BAR_MS = 50.0


def synthetic(count: int) -> list[LayerTable]:
    """Tables of layers that were never trained nor even filled: decaying random spectra."""
    random = np.random.default_rng(0)
    tables = []
    for number in range(count):
        channels = int(random.choice([64, 128, 256, 512]))
        spec = LayerSpec(f"layer{number}", "conv2d", channels, channels, (3, 3))
        curves = {}
        for k in divisors(channels):
            full = min(channels, 9 * channels // k)
            sigma = np.sort(random.random((k, full)), axis=1)[:, ::-1]
            sigma = np.append(sigma, np.zeros((k, 1)), axis=1)
            squares = np.square(sigma).sum(0)
            curves[0, k] = Curve(squares, sigma.max(0), squares[::-1].cumsum()[::-1].copy())
        tables.append(LayerTable(spec, {0: float(curves[0, 1].largest[0])}, curves))
    return tables


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median over the repeats."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def measure(name: str, tables: Sequence[LayerTable], ratio: float, repeats: int) -> list[list[str]]:
    """One row for each error definition."""
    weights = sum(table.spec.weight_params for table in tables)
    rows = []
    for bound in ("density", "sum"):
        options = [layer_options(table, bound=bound) for table in tables]
        budget = max(int((1 - ratio) * weights), sum(int(own.costs.min()) for own in options))

        def plan(solver: str, bound: str = bound, budget: int = budget) -> object:
            return alds.plan(tables, budget, solver=solver, bound=bound, seed=0)

        exact = milliseconds(lambda: plan("exact"), repeats)
        alternating = milliseconds(lambda: plan("alternating"), 1)
        rows.append([name, bound, str(len(tables)), f"{exact:.1f}", f"{alternating:.0f}"])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    networks = {
        "ResNet18": fresh_network("resnet18"),
        "MobileNetV2": fresh_network("mobilenet_v2"),
        "ResNet20": network_of(build(Architecture("cifar_resnet20"))),
    }
    rows = []
    for name, network in networks.items():
        tables = list(tables_of(network).layers.values())
        rows += measure(name, tables, options.ratio, options.repeats)
    rows += measure("synthetic", synthetic(300), options.ratio, options.repeats)
    print_table(["network", "error", "layers", "exact ms", "alternating ms"], rows)
    slowest = max(float(row[3]) for row in rows if row[0] == "ResNet18")
    print_bar(f"exact under {BAR_MS:g} ms for ResNet18", slowest < BAR_MS)


if __name__ == "__main__":
    main()
