"""The densely connected network for CIFAR-10 that the ALDS paper compresses.

Source: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional
Networks", CVPR 2017, section 3: the plain variant, without bottlenecks and without
compression, but with the 2k channels in front that its authors use for DenseNet-BC.
This is the combination that Liebenwein et al. call DenseNet22. They report 0.30 M
parameters; the network has 290,986, or 296,530 numbers with the running statistics
of the batch normalisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.architectures.zoo.resnet import he_normal_


class DenseLayer(nn.Module):
    """One composite function H: BN, ReLU, 3×3 convolution, appended to its input.

    (n, in_channels, h, w) → (n, in_channels + growth, h, w).
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Append the new features to `x`."""
        return torch.cat((x, self.conv1(F.relu(self.bn1(x)))), dim=1)


class Transition(nn.Module):
    """BN, ReLU, 1×1 convolution and pooling between dense blocks; halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of `x` and halve its resolution."""
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class CifarDenseNet(nn.Module):
    """Three dense blocks; depth is 3 · layers + 4.

    (n, in_channels, 32, 32) → (n, num_classes) logits.

    Args:
        layers: layers in each dense block.
        growth: channels that each layer adds (the paper's k).
        num_classes: number of classes.
        in_channels: channels of the image.
    """

    def __init__(
        self, layers: int, growth: int, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        widths = [2 * growth + block * layers * growth for block in range(4)]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.dense1 = _dense_block(widths[0], layers, growth)
        self.trans1 = Transition(widths[1])
        self.dense2 = _dense_block(widths[1], layers, growth)
        self.trans2 = Transition(widths[2])
        self.dense3 = _dense_block(widths[2], layers, growth)
        self.bn = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, num_classes) of a batch of images."""
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.dense3(self.trans2(self.dense2(x)))
        logits: Tensor = self.fc(F.relu(self.bn(x)).mean(dim=(2, 3)))
        return logits


def _dense_block(in_channels: int, layers: int, growth: int) -> nn.Sequential:
    return nn.Sequential(
        *(DenseLayer(in_channels + index * growth, growth) for index in range(layers))
    )


def cifar_densenet22(num_classes: int = 10, in_channels: int = 3) -> CifarDenseNet:
    """Build a DenseNet of depth 22 and growth 12, with 290,986 parameters."""
    return CifarDenseNet(6, 12, num_classes, in_channels)
