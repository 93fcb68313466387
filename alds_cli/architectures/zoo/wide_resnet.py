"""Wide residual networks for CIFAR-10.

Source: Zagoruyko, Komodakis, "Wide Residual Networks", BMVC 2016, section 2 and
table 1; blocks are pre-activated as in He et al., "Identity Mappings in Deep
Residual Networks", ECCV 2016.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.architectures.zoo.resnet import he_normal_


class WideBlock(nn.Module):
    """A pre-activated block of two 3×3 convolutions, the paper's B(3, 3).

    (n, in_channels, h, w) → (n, out_channels, h / stride, w / stride). If the number of
    channels changes, the shortcut is a 1×1 convolution of the activated input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's residual to `x`."""
        activated = F.relu(self.bn1(x))
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        shortcut = x if self.downsample is None else self.downsample(activated)
        return residual + shortcut


class WideResNet(nn.Module):
    """A wide residual network of depth 6 · blocks + 4.

    (n, in_channels, 32, 32) → (n, num_classes) logits.

    Args:
        blocks: blocks in each of the three stages.
        widening: factor on the stages' 16, 32 and 64 channels (the paper's k).
        num_classes: number of classes.
        in_channels: channels of the image.
    """

    def __init__(
        self, blocks: int, widening: int, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16 * widening, blocks, stride=1)
        self.layer2 = _stage(16 * widening, 32 * widening, blocks, stride=2)
        self.layer3 = _stage(32 * widening, 64 * widening, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widening)
        self.fc = nn.Linear(64 * widening, num_classes)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, num_classes) of a batch of images."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.fc(F.relu(self.bn1(x)).mean(dim=(2, 3)))
        return logits


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (WideBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(WideBlock(in_channels, out_channels, stride), *rest)


def cifar_wrn16_8(num_classes: int = 10, in_channels: int = 3) -> WideResNet:
    """Build WRN-16-8, of depth 16 and widening factor 8, with 10,961,370 parameters."""
    return WideResNet(2, 8, num_classes, in_channels)
