"""The share of time that fewer MACs save, where both networks run in their fastest form.

Each network of random weights is compressed to half of its MACs, and both are optimised and timed
in turns. Efficiency is the share of time saved over the share of MACs saved. With `--efficiency`
the plans have to reach it, each at the batch size at which it is timed.

    python benchmarks/optimized.py resnet18 resnet50 mobilenet_v2 [--threads 2] [--batches 1,16]
    python benchmarks/optimized.py resnet18 resnet50 --batches 1 --efficiency 0.8
    python benchmarks/optimized.py model.pt --ratio 0.5 --target params
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import print_bar, print_table

from alds_cli import Network, architectures
from alds_cli.api import compress
from alds_cli.latency.comparing import compare_latency
from alds_cli.latency.fastest_form import in_form, with_fastest_form
from alds_cli.network.networks import network_of
from alds_cli.network.opening import open_network

BARS = {1: 0.8, 16: 0.7}
"""The least efficiency by batch size."""


def opened(name: str) -> Network:
    """Open a file, or build a network of random weights."""
    if Path(name).exists():
        return open_network(name)
    torch.manual_seed(0)
    arch = architectures.parse_architecture(name)
    return network_of(architectures.build(arch).eval(), arch)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--ratio", default="0.5")
    parser.add_argument("--target", default="macs")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--efficiency", type=float)
    parser.add_argument("--rank-multiple", type=int, default=1)
    parser.add_argument("--method", default="alds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, kept = [], True
    for name in options.networks:
        original = opened(name)
        for batch in map(int, options.batches.split(",")):
            made = compress(
                original,
                target=options.target,
                ratio=options.ratio,
                efficiency=options.efficiency,
                rank_multiple=options.rank_multiple,
                method=options.method,
                batch_size=batch,
                device=str(options.device),
            )
            saved_macs = 1 - made.report.macs_after / made.report.macs_before
            forms = [
                in_form(
                    network.module,
                    with_fastest_form(
                        network, network.inputs, batch_size=batch, device=options.device
                    ).inference,
                )
                for network in (original, made.network)
            ]
            found = compare_latency(
                *forms, original.inputs, batch_size=batch, device=options.device
            )
            efficiency = found.saved / saved_macs
            kept = kept and efficiency >= BARS.get(batch, 0)
            rows.append(
                (
                    name,
                    str(batch),
                    f"{100 * saved_macs:.1f} %",
                    f"{found.original.median_ms:.2f} ms",
                    f"{found.compressed.median_ms:.2f} ms",
                    f"{100 * found.saved:.1f} %",
                    f"{efficiency:.2f}",
                )
            )
            print(*rows[-1], flush=True)
    print_table(
        ("network", "batch", "MACs saved", "original", "compressed", "time saved", "efficiency"),
        rows,
    )
    print_bar("efficiency of 0.8 at batch 1 and 0.7 at batch 16", kept)


if __name__ == "__main__":
    main()
