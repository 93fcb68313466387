"""The built-in networks: those of the ALDS paper for CIFAR-10, and a small one for digits.

All are made of plain modules, and can be traced by `torch.fx` and exported by `torch.export`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from alds_cli.architectures.zoo.densenet import cifar_densenet22
from alds_cli.architectures.zoo.resnet import (
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
)
from alds_cli.architectures.zoo.small import digits_cnn
from alds_cli.architectures.zoo.vgg import cifar_vgg16_bn
from alds_cli.architectures.zoo.wide_resnet import cifar_wrn16_8
from alds_cli.records import Preprocessing

__all__ = ["ZOO", "ZooNetwork"]

# The CIFAR networks are normalised with ImageNet's statistics because the
# checkpoints in circulation for He's CIFAR ResNets were trained that way.
_CIFAR = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_DIGITS = Preprocessing(mean=(0.5,), std=(0.5,))


@dataclass(frozen=True, slots=True)
class ZooNetwork:
    """A built-in network: its factory and the images it was designed for.

    `factory` takes `num_classes` and `in_channels`; `input_shape` is (c, h, w).
    """

    factory: Callable[..., nn.Module]
    input_shape: tuple[int, int, int] = (3, 32, 32)
    preprocessing: Preprocessing = _CIFAR


ZOO = {
    "cifar_resnet20": ZooNetwork(cifar_resnet20),
    "cifar_resnet32": ZooNetwork(cifar_resnet32),
    "cifar_resnet44": ZooNetwork(cifar_resnet44),
    "cifar_resnet56": ZooNetwork(cifar_resnet56),
    "cifar_resnet110": ZooNetwork(cifar_resnet110),
    "cifar_vgg16_bn": ZooNetwork(cifar_vgg16_bn),
    "cifar_densenet22": ZooNetwork(cifar_densenet22),
    "cifar_wrn16_8": ZooNetwork(cifar_wrn16_8),
    "digits_cnn": ZooNetwork(digits_cnn, (1, 8, 8), _DIGITS),
}
"""Every built-in network by its `--arch` name."""
