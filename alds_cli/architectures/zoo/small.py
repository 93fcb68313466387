"""A small network that trains in seconds on a CPU, for demonstrations and tests.

The layout is that of Simonyan, Zisserman (ICLR 2015), section 2.1, on a small scale; the
network is not from a paper.
"""

from __future__ import annotations

from torch import Tensor, nn


class DigitsCnn(nn.Module):
    """Four 3×3 convolutions and two linear layers.

    (n, in_channels, 8, 8) → (n, num_classes) logits.

    Args:
        num_classes: number of classes.
        in_channels: channels of the image.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(in_channels, 32),
            *_convolution(32, 32),
            nn.MaxPool2d(2),
            *_convolution(32, 64),
            *_convolution(64, 64),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(64 * 2 * 2, 64), nn.ReLU(), nn.Linear(64, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, num_classes) of a batch of images."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def _convolution(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def digits_cnn(num_classes: int = 10, in_channels: int = 1) -> DigitsCnn:
    """Build the network for scikit-learn's 8×8 digits, with 82,282 parameters."""
    return DigitsCnn(num_classes, in_channels)
