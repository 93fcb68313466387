"""Networks as a user would write them, for `--arch own_networks:NAME`; and random weights.

The benchmarks that run the command copy this file into the folder that they run it in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

_WIDTHS = (16, 32, 64)
_BLOCKS = 3
_FALL = 0.95


class Encoder(nn.Module):
    """A small transformer encoder: (n, length) whole numbers below 50 → (n, 10) logits."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, ids: Tensor) -> Tensor:
        """Give the logits of sequences of tokens."""
        logits: Tensor = self.head(self.encoder(self.embedding(ids)).mean(dim=1))
        return logits


class Mixed(nn.Module):
    """Grouped, transposed, normalised and one-dimensional layers: (n, 3, 16, 16) → (n, 10)."""

    input_shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.plain = weight_norm(nn.Conv2d(3, 16, 3, padding=1))
        self.grouped = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=4)
        self.transposed = nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1)
        self.row = nn.Conv1d(256, 64, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits of a batch of images."""
        maps = self.transposed(self.grouped(self.plain(images).relu()).relu()).relu()
        logits: Tensor = self.head(self.row(maps.flatten(1, 2)).relu().mean(dim=2))
        return logits


def encoder(layers: int = 2) -> Encoder:
    """Make an `Encoder`."""
    return Encoder(layers)


def mixed() -> Mixed:
    """Make a `Mixed`."""
    return Mixed()


def random_weights(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Draw a state dict for a network, whose spectra fall as those of trained networks do.

    Running means and variances of batch normalisation are drawn too: (0, 1) and (1, 0) would
    hide a mistake with them.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            drawn[name] = tensor.clone()
            continue
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("bias", "running_mean")):
            drawn[name] = 0.1 * values
        elif tensor.dim() < 2:
            drawn[name] = 1 + 0.1 * values.abs()
        else:
            inputs = tensor[0].numel()
            falling = _FALL ** torch.arange(tensor.shape[1], dtype=torch.float32)
            shape = (1, -1, *[1] * (tensor.dim() - 2))
            drawn[name] = values * falling.view(shape) * (2 / inputs) ** 0.5
    return drawn


def cifar_resnet20_weights(seed: int = 0) -> dict[str, Tensor]:
    """Draw the state dict of a CIFAR-10 ResNet20, under the usual names."""
    layers = nn.ModuleDict({"conv1": nn.Conv2d(3, 16, 3, bias=False), "bn1": nn.BatchNorm2d(16)})
    before = 16
    for stage, width in enumerate(_WIDTHS, start=1):
        blocks = nn.ModuleList()
        for _ in range(_BLOCKS):
            parts = {
                "conv1": nn.Conv2d(before, width, 3, bias=False),
                "bn1": nn.BatchNorm2d(width),
                "conv2": nn.Conv2d(width, width, 3, bias=False),
                "bn2": nn.BatchNorm2d(width),
            }
            blocks.append(nn.ModuleDict(parts))
            before = width
        layers[f"layer{stage}"] = blocks
    layers["linear"] = nn.Linear(before, 10)
    return random_weights(layers, seed)
