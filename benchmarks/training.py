"""An epoch of `alds train` beside a loop that is written by hand, in turns.

    python benchmarks/training.py --data tensors:FILE [--images 4096] [--threads 1] [--rounds 3]
    python benchmarks/training.py --data tensors:FILE --device cuda

Both train the same network from the same weights, on the same images with the same crops and
flips, by SGD with momentum and weight decay. The loop by hand is what PyTorch's tutorials teach;
a second one keeps images and weights channels-last. The epoch of this package includes its checks
of the loss and the state that it writes after the epoch. On a GPU, a second epoch with
`--compile` is timed too, which no longer has to compile anything.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import print_bar, print_table
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli import architectures, retraining
from alds_cli.checkpoint.training_state import write_state
from alds_cli.datasets import TensorImages, open_dataset
from alds_cli.retraining import RetrainSettings

BAR = 1.15

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

SETTINGS = RetrainSettings(epochs=1, batch_size=128, lr=0.1, momentum=0.9, weight_decay=1e-4)


def by_hand(
    module: nn.Module, images: Tensor, labels: Tensor, *, last: bool, device: torch.device
) -> None:
    """Train for one epoch; `last` keeps images and weights channels-last."""
    layout = torch.channels_last if last else torch.contiguous_format
    module.train().to(device, memory_format=layout)
    optimiser = torch.optim.SGD(
        module.parameters(), lr=SETTINGS.lr, momentum=0.9, weight_decay=SETTINGS.weight_decay
    )
    mean, std = (torch.tensor(own).view(1, 3, 1, 1) for own in (MEAN, STD))
    total = 0.0
    for indices in torch.randperm(len(images)).split(SETTINGS.batch_size):
        padded = F.pad(images[indices], (4, 4, 4, 4))
        corners = torch.randint(0, 9, (len(indices), 2)).tolist()
        cropped = torch.stack(
            [
                own[:, row : row + 32, column : column + 32]
                for own, (row, column) in zip(padded, corners, strict=True)
            ]
        )
        mirrored = torch.rand(len(indices)) < 0.5
        cropped[mirrored] = cropped[mirrored].flip(3)
        inputs = ((cropped.float() / 255 - mean) / std).contiguous(memory_format=layout)
        loss = F.cross_entropy(module(inputs.to(device)), labels[indices].to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item()


def packaged(
    module: nn.Module,
    dataset: TensorImages,
    folder: Path,
    device: torch.device,
    settings: RetrainSettings = SETTINGS,
) -> float:
    """Train as `alds train` does, with its states; return the seconds of the last epoch."""
    result = retraining.retrain(
        module,
        dataset,
        settings,
        device=device,
        preprocessing=architectures.default_preprocessing(
            architectures.parse_architecture("cifar_resnet20")
        ),
        keep=lambda state: write_state(state.to_dict(), folder / "state"),
    )
    return result.history[-1].seconds


def main() -> None:
    """Time the epochs and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--arch", default="cifar_resnet20")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole = open_dataset(options.data)
    dataset = whole.subset(torch.arange(min(options.images, len(whole))))
    if not isinstance(dataset, TensorImages):
        parser.error("the data are tensors:FILE or cifar10:DIR")
    images, labels = dataset.batch(torch.arange(len(dataset))), dataset.labels
    torch.manual_seed(0)
    fresh = architectures.build(architectures.parse_architecture(options.arch))
    place = options.device
    compiling, compiled = "alds train --compile", replace(SETTINGS, epochs=2, compile=True)
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[nn.Module], Any]] = {
            "by hand": lambda own: by_hand(own, images, labels, last=False, device=place),
            "by hand, channels-last": lambda own: by_hand(
                own, images, labels, last=True, device=place
            ),
            "alds train": lambda own: packaged(own, dataset, Path(folder), place),
        }
        if place.type == "cuda":
            by_hand(copy.deepcopy(fresh), images, labels, last=False, device=place)  # warms up
            runs[compiling] = lambda own: packaged(own, dataset, Path(folder), place, compiled)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                module = copy.deepcopy(fresh)
                start = time.perf_counter()
                last = run(module)
                whole_run = time.perf_counter() - start
                times[name].append(last if name == compiling else whole_run)
    plain = times["by hand"]
    ratios = {
        name: statistics.median(own / first for own, first in zip(found, plain, strict=True))
        for name, found in times.items()
    }
    print_table(
        ("", "seconds", "of the loop by hand"),
        [
            (name, f"{statistics.median(found):.2f}", f"{ratios[name]:.2f}")
            for name, found in times.items()
        ],
    )
    print_bar(f"at most {BAR} times a loop by hand", ratios["alds train"] <= BAR)


if __name__ == "__main__":
    main()
