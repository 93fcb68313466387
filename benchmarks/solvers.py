"""How much better the exact solver's objective is than that of alternation from many starts.

Bar: never above it, for any network, error definition, ratio and seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

from common import fresh_network, print_bar, print_table, tables_of

from alds_cli.allocation import (
    ERROR_DEFINITIONS,
    alternating,
    layer_options,
    minimax,
)
from alds_cli.network.networks import Network

DEFINITIONS = [name for name in ERROR_DEFINITIONS if name != "exact"]
"""All that the tables hold; what is exact would have to be asked for option by option."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("../shared/weights"))
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--starts", type=int, default=15)
    options = parser.parse_args()
    models: dict[str, Network | Path] = {"ResNet18, random": fresh_network("resnet18")}
    models |= {path.stem: path for path in sorted(options.weights.glob("*.safetensors"))}
    rows: list[list[str]] = []
    above = 0
    for name, model in models.items():
        tables = list(tables_of(model).layers.values())
        weights = sum(table.spec.weight_params for table in tables)
        for bound in DEFINITIONS:
            layers = [layer_options(table, bound=bound) for table in tables]
            gains, worse = [], 0
            for tenths in range(1, 10):
                budget = (10 - tenths) * weights // 10
                if budget < sum(int(own.costs.min()) for own in layers):
                    continue
                exact = minimax(layers, [budget]).objective
                for seed in range(options.seeds):
                    found = alternating(layers, [budget], seed=seed, starts=options.starts)
                    other = found.objective
                    worse += exact > other
                    gains.append(0.0 if other == 0 else 100 * (1 - exact / other))
            above += worse
            rows.append(
                [
                    name,
                    bound,
                    str(len(gains)),
                    str(worse),
                    f"{mean(gains):.2f}",
                    f"{max(gains):.2f}",
                ]
            )
    print_table(["network", "error", "runs", "above", "mean gain %", "largest %"], rows)
    print_bar("the exact solver's objective is never above alternation's", above == 0)


if __name__ == "__main__":
    main()
