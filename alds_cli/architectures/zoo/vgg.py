"""VGG16 for CIFAR-10.

Source: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale
Image Recognition", ICLR 2015, table 1, column D. It is adapted to 32×32 images as
usual, and as described by Li et al., "Pruning Filters for Efficient ConvNets",
ICLR 2017, section 4.1: with batch normalisation after every convolution and one
hidden linear layer of 512 units.
"""

from __future__ import annotations

from torch import Tensor, nn

from alds_cli.architectures.zoo.resnet import he_normal_

_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVgg(nn.Module):
    """Thirteen 3×3 convolutions in five groups, each group followed by pooling.

    (n, in_channels, 32, 32) → (n, num_classes) logits.

    Args:
        num_classes: number of classes.
        in_channels: channels of the image.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for group in _GROUPS:
            for width in group:
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, num_classes)
        )
        he_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, num_classes) of a batch of images."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def cifar_vgg16_bn(num_classes: int = 10, in_channels: int = 3) -> CifarVgg:
    """Build a VGG16 with batch normalisation for 32×32 images, with 14,990,922 parameters."""
    return CifarVgg(num_classes, in_channels)
