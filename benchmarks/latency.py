"""How much faster low-rank pairs make networks here, and whether a ratio of it can be had.

For each network (random weights, 224 × 224) and number of threads: the tables of times, the
network made of every layer's fastest pair, and what `--target latency` makes of a ratio.
Every figure of a whole network comes from runs in turns with the original, and is the
median of several such comparisons. Nothing is read from or kept in the cache.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from fractions import Fraction

import torch
from common import fresh_network, print_bar, print_table
from torch import nn

from alds_cli import api
from alds_cli.errors import ContractError
from alds_cli.latency import (
    LayerLatency,
    NetworkComparison,
    compare_latency,
    latency_candidates,
    layer_latencies,
    predicted_ns,
    slower_layers,
)
from alds_cli.network.networks import Network
from alds_cli.network.opening import trace_network
from alds_cli.records import Choice
from alds_cli.surgery import (
    find_layers,
    layer_at,
    make_pair,
    put_at,
)
from alds_cli.tracing.trace import Trace

SIZE = (3, 224, 224)


def fastest_pairs(latencies: dict[str, LayerLatency]) -> dict[str, Choice]:
    """For every layer the pair that takes the least time, where one is faster."""
    return {
        name: min(own.faster, key=lambda choice, own=own: own.pairs[choice])
        for name, own in latencies.items()
        if own.faster
    }


def with_pairs(network: nn.Module, choices: dict[str, Choice]) -> nn.Module:
    """A copy with pairs of random weights: their values do not matter here."""
    made = copy.deepcopy(network)
    for name, choice in choices.items():
        put_at(made, name, make_pair(layer_at(network, name), choice, "cpu"))
    return made.eval()


def repeated(compare: Callable[[], NetworkComparison], repeats: int) -> NetworkComparison:
    """The comparison in the middle of several."""
    return sorted((compare() for _ in range(repeats)), key=lambda own: own.saved)[repeats // 2]


def tables(
    network: Network, seen: Trace, schemes: tuple[int, ...], batch_size: int
) -> tuple[dict[str, LayerLatency], float]:
    """Times of all layers and their pairs, and the seconds that this took."""
    specs = find_layers(network.module, seen)
    candidates = {name: latency_candidates(spec, schemes) for name, spec in specs.items()}
    start = time.perf_counter()
    found = layer_latencies(
        network.module, specs, seen, candidates, batch_size=batch_size, cache=False
    )
    return found, time.perf_counter() - start


def reached(network: Network, options: argparse.Namespace) -> tuple[str, bool]:
    """What `--target latency` saves at the ratio, in a fresh measurement; whether enough."""
    try:
        result = api.compress(
            network,
            ratio=options.ratio,
            target="latency",
            batch_size=options.batch_size,
            cache=False,
        )
    except ContractError as error:
        return error.message, False
    small = result.network.module
    again = repeated(
        lambda: compare_latency(network.module, small, SIZE, batch_size=options.batch_size),
        options.repeats,
    )
    return f"{again.saved:.3f}", again.saved >= options.ratio


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--schemes", type=int, nargs="+", default=[0])
    parser.add_argument("--ratio", type=Fraction, default=Fraction("0.3"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compress", action="store_true", help="measure the tables only")
    options = parser.parse_args()
    rows, verdicts = [], []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name in options.networks:
            network = fresh_network(name)
            seen = trace_network(network)
            latencies, seconds = tables(network, seen, tuple(options.schemes), options.batch_size)
            fastest = fastest_pairs(latencies)
            made = with_pairs(network.module, fastest)
            best = repeated(
                lambda network=network, made=made: compare_latency(
                    network.module, made, SIZE, batch_size=options.batch_size
                ),
                options.repeats,
            )
            before = best.original.median_ms * 1e6
            slower = slower_layers(
                network.module, made, fastest, seen, batch_size=options.batch_size
            )
            rows.append(
                [
                    name,
                    f"{threads}",
                    f"{seconds:.1f}",
                    f"{sum(len(own.pairs) for own in latencies.values())}",
                    f"{best.original.median_ms:.2f}",
                    f"{best.compressed.median_ms:.2f}",
                    f"{best.saved:.3f}",
                    f"{1 - predicted_ns(before, latencies, fastest) / before:.3f}",
                    f"{len(slower)}",
                ]
            )
            if not options.no_compress:
                verdicts.append((name, threads, *reached(network, options)))
    print_table(
        ["network", "threads", "tables s", "pairs", "ms", "fastest", "saved", "foreseen", "slower"],
        rows,
    )
    for name, threads, text, holds in verdicts:
        share = float(options.ratio)
        print(f"{name}, {threads} threads, --target latency --ratio {share:g}: {text}")
        print_bar(f"{name} is faster by {share:g} on {threads} threads", holds)


if __name__ == "__main__":
    main()
