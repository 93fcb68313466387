"""The residual networks of He et al. for CIFAR-10.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition",
CVPR 2016, section 4.2.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class PaddedShortcut(nn.Module):
    """Option A of the paper, section 3.3: a shortcut to more channels without parameters.

    Keeps every second pixel and pads the new channels with zeros, half of them in
    front and half behind: (n, c, h, w) → (n, c + 2 · padding, ⌈h/2⌉, ⌈w/2⌉).
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad `x`."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut around them (the paper's figure 2).

    (n, in_channels, h, w) → (n, out_channels, h, w); if the number of channels changes,
    height and width are halved.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        widens = in_channels != out_channels
        stride = 2 if widens else 1
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = (
            PaddedShortcut((out_channels - in_channels) // 2) if widens else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's residual to `x`."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class CifarResNet(nn.Module):
    """A residual network of depth 6 · blocks + 2 for (n, in_channels, 32, 32) images.

    Three stages of 16, 32 and 64 channels on maps of 32, 16 and 8 pixels, global
    average pooling, one linear layer: gives (n, num_classes) logits.

    Args:
        blocks: residual blocks in each stage.
        num_classes: number of classes.
        in_channels: channels of the image.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, num_classes)
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, num_classes) of a batch of images."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    widths = [in_channels, *[out_channels] * blocks]
    return nn.Sequential(*(ResidualBlock(*pair) for pair in pairwise(widths)))


def cifar_resnet20(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """Build the ResNet20 of He et al. (2016), table 6, with 269,722 parameters."""
    return CifarResNet(3, num_classes, in_channels)


def cifar_resnet32(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """Build the ResNet32 of He et al. (2016), table 6, with 464,154 parameters."""
    return CifarResNet(5, num_classes, in_channels)


def cifar_resnet44(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """Build the ResNet44 of He et al. (2016), table 6, with 658,586 parameters."""
    return CifarResNet(7, num_classes, in_channels)


def cifar_resnet56(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """Build the ResNet56 of He et al. (2016), table 6, with 853,018 parameters."""
    return CifarResNet(9, num_classes, in_channels)


def cifar_resnet110(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """Build the ResNet110 of He et al. (2016), table 6, with 1,727,962 parameters."""
    return CifarResNet(18, num_classes, in_channels)


def he_normal_(network: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 2 / fan_out), in place.

    Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015,
    section 2.2 (backward propagation case); fan_out is out_channels · κ1 · κ2.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
