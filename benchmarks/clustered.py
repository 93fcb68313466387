"""What clusters of columns cost to run, beside slices of as many parameters.

For typical layers and for whole networks, each cut to a ratio: the time with slices and with
clusters as fractions of the original's, taken in turns in one run, round by round. Slices are those
of alds-simple. Weights are random, and so is what the clusters hold, since projective clustering
gives columns of no order. `products` is the clusters' pair without padding, laying out patches and
gathering: what would be left if these were free. Patches and the gathered patches take κ1·κ2 times
the memory of the input each, which shows with many images at a time.

    python benchmarks/clustered.py --threads 1 --batch-size 1
"""

from __future__ import annotations

import argparse
import copy

import torch
import torchvision
from common import print_table
from torch import Tensor, nn

from alds_cli import architectures
from alds_cli.methods.equalising import nearest_slices
from alds_cli.numerics.fold import pair_params
from alds_cli.records import CLUSTERED, Architecture, Choice, LayerSpec
from alds_cli.runtime.devices import paired, time_networks
from alds_cli.surgery import (
    find_layers,
    layer_at,
    make_pair,
    put_at,
)

K = 3
CPU = torch.device("cpu")

LAYERS = {
    "conv 16x16x3x3, 32x32": (lambda: nn.Conv2d(16, 16, 3, padding=1), (16, 32, 32)),
    "conv 64x64x3x3, 8x8": (lambda: nn.Conv2d(64, 64, 3, padding=1), (64, 8, 8)),
    "conv 64x64x3x3, 56x56": (lambda: nn.Conv2d(64, 64, 3, padding=1), (64, 56, 56)),
    "conv 256x256x3x3, 14x14": (lambda: nn.Conv2d(256, 256, 3, padding=1), (256, 14, 14)),
    "conv 512x512x3x3, 7x7": (lambda: nn.Conv2d(512, 512, 3, padding=1), (512, 7, 7)),
    "conv 256x64x1x1, 56x56": (lambda: nn.Conv2d(64, 256, 1), (64, 56, 56)),
    "linear 4096x4096": (lambda: nn.Linear(4096, 4096), (4096,)),
    "linear 1000x2048": (lambda: nn.Linear(2048, 1000), (2048,)),
}

NETWORKS = {
    "cifar_resnet20": (
        lambda: architectures.build(Architecture("cifar_resnet20")),
        (3, 32, 32),
    ),
    "resnet18": (torchvision.models.resnet18, (3, 224, 224)),
}


class Products(nn.Module):
    """A pair of clusters that finds its parts gathered already."""

    def __init__(self, pair: nn.Sequential, inputs: Tensor) -> None:
        super().__init__()
        self.first, self.second = pair.get_submodule("first"), pair.get_submodule("second")
        self.parts = self.first.gathered(inputs)
        self.shape = self.first(inputs).shape

    def forward(self, inputs: Tensor) -> Tensor:
        """What the pair gives for the inputs it was made with."""
        del inputs
        return self.second(self.first.multiplied(self.parts).reshape(self.shape))


def choice_of(spec: LayerSpec, scheme: int, k: int, ratio: float) -> Choice | None:
    """The largest rank that removes so much of a layer; None if none does."""
    each = pair_params(spec.weight_shape, scheme, k, 1)
    rank = int((1 - ratio) * spec.weight_params / each)
    return Choice(scheme, k, rank) if rank else None


def compressed(network: nn.Module, ratio: float, *, clustered: bool) -> nn.Module:
    """A copy with a pair in the place of every layer that there is a small enough one for."""
    made = copy.deepcopy(network)
    for name, spec in find_layers(network).items():
        k, scheme = (K, CLUSTERED) if clustered else (nearest_slices(spec, K), 0)
        choice = choice_of(spec, scheme, k, ratio)
        if choice is None:
            continue
        pair = make_pair(layer_at(network, name), choice, "cpu")
        if clustered:
            first = pair.get_submodule("first")
            order = torch.randperm(len(first.order)).to(torch.int32)
            first.set_clusters(order, first.sizes)
        put_at(made, name, pair)
    return made.eval()


def row(
    name: str, network: nn.Module, shape: tuple[int, ...], options: argparse.Namespace
) -> list[str]:
    """A line of the table: milliseconds of the original, and fractions of them."""
    networks = {
        "original": network.eval(),
        "slices": compressed(network, options.ratio, clustered=False),
        "clusters": compressed(network, options.ratio, clustered=True),
    }
    if isinstance(network, nn.Sequential):
        inputs = torch.randn(options.batch_size, *shape)
        with torch.inference_mode():
            networks["products"] = Products(networks["clusters"][0], inputs)
    seconds = time_networks(networks, shape, batch_size=options.batch_size, device=CPU)
    found = {own: paired(seconds[own], seconds["original"]) for own in networks}
    direct = paired(seconds["clusters"], seconds["slices"])
    cells = [
        f"{own.median:.2f} ({own.lower_quartile:.2f}-{own.upper_quartile:.2f})"
        for own in (found["slices"], found["clusters"], direct)
    ]
    left = f"{found['products'].median:.2f}" if "products" in found else ""
    median = sorted(seconds["original"])[len(seconds["original"]) // 2]
    return [name, f"{1e3 * median:.3f}", *cells, left]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = [
        row(name, nn.Sequential(make()), shape, options) for name, (make, shape) in LAYERS.items()
    ]
    rows += [row(name, make(), shape, options) for name, (make, shape) in NETWORKS.items()]
    head = ["", "ms", "slices", "clusters", "clusters / slices", "products"]
    print_table(head, rows)


if __name__ == "__main__":
    main()
