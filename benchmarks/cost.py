"""How the time of a layer's tables grows with its width, against Σ k·min(f, d/k)³.

Square 3×3 convolutions and linear layers of widths 64 to 2048, all numbers of slices, one
thread: the cost of the work itself. Writes the figures as CSV and draws them.

Bar: fitted over the widths, the seconds grow with no larger power of the sum than 1.

    python benchmarks/cost.py --repeats 5
"""

from __future__ import annotations

import argparse
import csv
import time
from math import log
from pathlib import Path
from statistics import linear_regression, median

import torch
from common import print_bar, print_table

from alds_cli.numerics.fold import divisors
from alds_cli.numerics.spectra import SpectraJob
from alds_cli.runtime.pool import run_jobs

RESULTS = Path(__file__).with_name("results")
WIDTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
KERNELS = {"linear": 1, "conv3x3": 9}

Point = tuple[str, int, float, float]


def model_sum(width: int, kernel: int) -> float:
    """Σ k·min(f, d/k)³ over the divisors k of the channels, f = c = width and d = c·kernel."""
    return float(sum(k * min(width, width // k * kernel) ** 3 for k in divisors(width)))


def seconds(width: int, kernel: int, repeats: int) -> float:
    """Median time of one layer's tables; small layers are done several times in one run."""
    matrix = torch.randn(width, width, kernel, generator=torch.Generator().manual_seed(0))
    times = max(1, 256 // width) ** 2
    found = []
    for _ in range(repeats):
        jobs = [SpectraJob(matrix, divisors(width)) for _ in range(times)]
        start = time.perf_counter()
        run_jobs(jobs)
        for job in jobs:
            job.curves()
        found.append((time.perf_counter() - start) / times)
    return median(found)


def exponent(points: list[Point], least: int = 0) -> float:
    """Slope of log seconds over log model sum, from a width on."""
    chosen = [(log(model), log(time)) for _, width, model, time in points if width >= least]
    return linear_regression(*zip(*chosen, strict=True)).slope


def draw(points: list[Point], target: Path) -> None:
    """Seconds over the model's sum, both logarithmic, with a line of slope 1."""
    import matplotlib as mpl  # noqa: PLC0415 - the figures do not need it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for name, marker in zip(KERNELS, "os", strict=True):
        own = [point for point in points if point[0] == name]
        models, times = [point[2] for point in own], [point[3] for point in own]
        label = f"{name}: slope {exponent(own):.2f}"
        axes.loglog(models, times, marker=marker, linestyle="none", label=label)
        for _, width, model, time_ in own[::2]:
            offset = (5, -10) if name == "linear" else (-24, 4)
            axes.annotate(
                str(width), (model, time_), xytext=offset, textcoords="offset points", fontsize=7
            )
    _, _, model, time_ = max(points, key=lambda point: point[2])
    least = min(point[2] for point in points)
    axes.loglog(
        [least, model],
        [time_ * least / model, time_],
        color="grey",
        label="proportional to the sum",
    )
    axes.set_xlabel("Σ k·min(f, d/k)³ over all numbers of slices k")
    axes.set_ylabel("seconds, one thread")
    axes.set_title("Time of a layer's error tables; widths 64 to 2048")
    axes.legend()
    figure.savefig(target, dpi=120)


def main() -> None:
    """Measure, write, draw and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of cost.csv and .png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    points = [
        (name, width, model_sum(width, kernel), seconds(width, kernel, options.repeats))
        for name, kernel in KERNELS.items()
        for width in options.widths
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    with Path(options.output, "cost.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["layer", "width", "model_sum", "seconds"])
        writer.writerows((*point[:2], int(point[2]), f"{point[3]:.6f}") for point in points)
    draw(points, Path(options.output, "cost.png"))
    print_table(
        ["layer", "width", "sum", "ms", "ns per unit"],
        [
            [name, str(width), f"{model:.2e}", f"{1e3 * time_:.2f}", f"{1e9 * time_ / model:.3f}"]
            for name, width, model, time_ in points
        ],
    )
    for name in KERNELS:
        own = exponent([point for point in points if point[0] == name])
        print_bar(f"{name}: seconds grow as the sum to the power {own:.2f}, at most 1", own <= 1)


if __name__ == "__main__":
    main()
