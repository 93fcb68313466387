"""Top-1 of networks that were compressed by what a few unlabelled images tell.

Every case is one `compress` on images of a training set and one `evaluate` on test images, and one
line of the file, which may be interrupted and added to.

    python benchmarks/data_aware.py --weights DIR --train FILE --test FILE -o data-aware.csv
    python benchmarks/data_aware.py … --only tuned     # 1,200 steps each: hours on two cores
    python benchmarks/data_aware.py … --only seeds     # ten draws of the images

DIR holds `cifar10_resnet20.safetensors` and `cifar10_resnet56.safetensors`; FILE are safetensors
files of images and labels. benchmarks/results/data-aware.csv was measured on half of the test set.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from alds_cli import api

SAMPLES = 2000


@dataclass(frozen=True)
class Case:
    """One compression."""

    network: str
    target: str
    ratio: str
    method: str
    seed: int = 0
    refit: int = 0
    tune_steps: int = 0


def closed_form() -> Iterator[Case]:
    """Without tuning: every method at every ratio."""
    for method in ("auto", "alds-fisher", "alds-data", "balf", "alds"):
        for tenth in range(1, 9):
            yield Case("resnet20", "params", f"0.{tenth}", method)
            yield Case("resnet56", "params", f"0.{tenth}", method)
        yield Case("resnet20", "macs", "0.4", method)
    for ratio in ("0.5", "0.7"):
        yield Case("resnet20", "params", ratio, "auto", refit=1)


def tuned() -> Iterator[Case]:
    """With the steps that the bars are about."""
    for ratio in ("0.3", "0.5", "0.6", "0.7"):
        yield Case("resnet20", "params", ratio, "auto", refit=1, tune_steps=1200)
    for ratio in ("0.4", "0.6"):
        yield Case("resnet56", "params", ratio, "auto", refit=1, tune_steps=1200)
    yield Case("resnet20", "macs", "0.4", "auto", refit=1, tune_steps=1200)


def seeds() -> Iterator[Case]:
    """Ten draws of the images."""
    for seed in range(10):
        yield Case("resnet20", "params", "0.5", "auto", seed)


GROUPS = {"closed": closed_form, "seeds": seeds, "tuned": tuned}

COLUMNS = [field.name for field in fields(Case)]


def measured(case: Case, options: argparse.Namespace) -> dict[str, object]:
    """Compress and evaluate."""
    made = api.compress(
        options.weights / f"cifar10_{case.network}.safetensors",
        ratio=case.ratio,
        target=case.target,
        method=case.method,
        data=f"tensors:{options.train}",
        samples=SAMPLES,
        seed=case.seed,
        refit=bool(case.refit),
        tune_steps=case.tune_steps,
    )
    quality = api.evaluate(made.network, f"tensors:{options.test}", latency=False).model.quality
    return {
        "chosen": made.report.method,
        "params": made.report.params_after,
        "macs": made.report.macs_after,
        "top1": f"{quality.top1:.2f}",
        "seconds": f"{sum(made.report.seconds.values()):.1f}",
    }


def main() -> None:
    """Measure what the file lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--only", choices=GROUPS, default="closed")
    parser.add_argument("-o", "--output", type=Path, default=Path("data-aware.csv"))
    options = parser.parse_args()
    known: set[tuple[str, ...]] = set()
    if options.output.exists():
        with options.output.open(newline="") as file:
            known = {tuple(row[name] for name in COLUMNS) for row in csv.DictReader(file)}
    for case in GROUPS[options.only]():
        values = {name: str(getattr(case, name)) for name in COLUMNS}
        if tuple(values.values()) in known:
            continue
        row = {**values, **measured(case, options)}
        with options.output.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        print(" ".join(f"{value}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
