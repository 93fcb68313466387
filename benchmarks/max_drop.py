"""The ratio that `--max-drop` finds, beside the drops on a fine grid of ratios.

    python benchmarks/max_drop.py --model FILE --train FILE -o max-drop.csv

The search sees at most twelve networks. The grid is measured on the same images, around the ratio
that it found: half of the grid lies above it. A line of the file is one network; `searched` tells
which of them the search saw, and `chosen` which one it took.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from alds_cli import api
from alds_cli.calibration import draw_sample
from alds_cli.datasets import Batches, open_dataset
from alds_cli.evaluation import answers, paired_drop
from alds_cli.network.opening import open_network, settled_preprocessing
from alds_cli.records import DropPoint

SAMPLES = 2000


def searched(options: argparse.Namespace) -> tuple[DropPoint, list[DropPoint]]:
    """Return the point that the search takes, and all that it saw."""
    made = api.compress(
        options.model,
        max_drop=options.max_drop,
        data=f"tensors:{options.train}",
        samples=SAMPLES,
        dry_run=True,
    )
    found = made.report.drop
    return found.chosen, list(found.tried)


def grid(options: argparse.Namespace, middle: float) -> Iterator[DropPoint]:
    """Measure networks at ratios around one, on the images that the search measured on."""
    network = open_network(options.model)
    images = open_dataset(f"tensors:{options.train}", split="train")
    _, left = draw_sample(len(images), SAMPLES, 0)
    held = images.subset(left)
    batches = Batches(held, settled_preprocessing(None, network), batch_size=250)
    right = answers(network.module, batches) == held.labels
    first = round(middle / options.step) - options.points // 2
    for number in range(first, first + options.points):
        ratio = number * Fraction(str(options.step))
        made = api.compress(
            options.model, ratio=ratio, data=f"tensors:{options.train}", samples=SAMPLES
        )
        found = answers(made.network.module, batches) == held.labels
        yield DropPoint(
            float(ratio), made.report.params_after, *paired_drop(right, found).with_interval
        )


def main() -> None:
    """Search, measure the grid, and write both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--max-drop", type=float, default=1.0)
    parser.add_argument("--step", type=float, default=0.005)
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("-o", "--output", type=Path, default=Path("max-drop.csv"))
    options = parser.parse_args()
    chosen, tried = searched(options)
    with options.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ratio", "params", "drop", "low", "high", "searched", "chosen"])
        rows = [(point, 1, int(point == chosen)) for point in tried]
        rows += [(point, 0, 0) for point in grid(options, chosen.ratio)]
        for point, seen, taken in sorted(rows, key=lambda row: row[0].ratio):
            figures = (f"{x:.4f}" for x in (point.drop, point.low, point.high))
            writer.writerow([f"{point.ratio:g}", point.params, *figures, seen, taken])
    within = [point.ratio for point, *_ in rows if point.drop <= options.max_drop]
    print(f"found {chosen.ratio:g} in {len(tried)} networks; the best of all is {max(within):g}")


if __name__ == "__main__":
    main()
