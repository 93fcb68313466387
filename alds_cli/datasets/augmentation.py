"""Random changes to training images, drawn from an explicit generator.

An augmentation turns a fixed number of uniform random numbers per image into one
change, on uint8 pixels, so that padding is black before normalisation. All numbers
of a batch are drawn in one call, which keeps them independent of how many threads
decode the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alds_cli.datasets.preprocessing import extent
from alds_cli.errors import OptionError
from alds_cli.records import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

_PADDING = 4
_ATTEMPTS = 10
_AREA = (0.08, 1.0)
_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One recipe.

    Attributes:
        numbers: how many uniform numbers from [0, 1) one image needs.
        on_image: replaces resizing and cropping: (image, numbers (n,), pixels) → image
            of pixels × pixels.
        on_batch: follows resizing and cropping: (uint8 (n, C, H, W), numbers (n, m)) →
            the same shape.
    """

    numbers: int
    on_image: Callable[[Any, Tensor, int], Any] | None = None
    on_batch: Callable[[Tensor, Tensor], Tensor] | None = None


def crop_and_flip(images: Tensor, numbers: Tensor) -> Tensor:
    """Pad by 4 black pixels, crop the old size at random, mirror every other image.

    The recipe for CIFAR of He et al. 2016, section 4.2.

    Args:
        images: uint8 tensor of shape (n, C, H, W).
        numbers: uniform numbers of shape (n, 3): row, column, mirror.

    Returns:
        uint8 tensor of shape (n, C, H, W).
    """
    height, width = images.shape[2:]
    offsets = (numbers[:, :2] * (2 * _PADDING + 1)).long()
    windows = F.pad(images, [_PADDING] * 4).unfold(2, height, 1).unfold(3, width, 1)
    cropped = windows[torch.arange(len(images)), :, offsets[:, 0], offsets[:, 1]]
    mirrored = (numbers[:, 2] < 0.5)[:, None, None, None]
    return torch.where(mirrored, cropped.flip(3), cropped)


def resized_crop_and_flip(
    image: Tensor | Image.Image, numbers: Tensor, pixels: int
) -> Tensor | Image.Image:
    """Crop 8 to 100 % of the area at an aspect of 3:4 to 4:3, resize it, maybe mirror it.

    The recipe for ImageNet of Szegedy et al. 2015, as in torchvision's
    `RandomResizedCrop` followed by `RandomHorizontalFlip`.

    Args:
        image: a PIL image, or a uint8 tensor of shape (C, H, W).
        numbers: 23 uniform numbers.
        pixels: extent of the square result.
    """
    from torchvision.transforms import functional  # noqa: PLC0415 - slow to import

    height, width = extent(image)
    top, left, crop_height, crop_width = _random_box(height, width, numbers[1:])
    result: Tensor | Image.Image = functional.resized_crop(
        image, top, left, crop_height, crop_width, [pixels, pixels], antialias=True
    )
    if numbers[0] < 0.5:
        result = functional.hflip(result)
    return result


def _random_box(height: int, width: int, numbers: Tensor) -> tuple[int, int, int, int]:
    """(top, left, height, width): the first of ten tries that lies in the image.

    Where none does, the largest central box whose aspect is allowed.
    """
    drawn = numbers.tolist()
    row, column = drawn[0], drawn[1]
    for u, v in zip(drawn[2::2], drawn[3::2], strict=True):
        area = height * width * (_AREA[0] + u * (_AREA[1] - _AREA[0]))
        aspect = math.exp(_LOG_ASPECT[0] + v * (_LOG_ASPECT[1] - _LOG_ASPECT[0]))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top, left = int(row * (height - box_height + 1)), int(column * (width - box_width + 1))
            return (top, left, box_height, box_width)
    box_width = max(1, min(width, round(height * 4 / 3)))
    box_height = max(1, min(height, round(width * 4 / 3)))
    return ((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


AUGMENTATIONS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "none": Augmentation(0),
        "crop-flip": Augmentation(3, on_batch=crop_and_flip),
        "resized-crop-flip": Augmentation(3 + 2 * _ATTEMPTS, on_image=resized_crop_and_flip),
    }
)
"""Augmentations by name."""


def choose_augmentation(name: str, preprocessing: Preprocessing) -> str:
    """The name of the augmentation meant: "auto" goes by the preprocessing.

    Images that are resized or cropped for the network get `resized-crop-flip`, images
    that have its size already `crop-flip`.

    Raises:
        OptionError: there is no augmentation of that name.
    """
    if name == "auto":
        resizes = preprocessing.resize is not None or preprocessing.crop is not None
        return "resized-crop-flip" if resizes else "crop-flip"
    if name not in AUGMENTATIONS:
        raise OptionError(
            f"there is no augmentation '{name}'",
            tip=f"choose one of auto, {', '.join(AUGMENTATIONS)}",
        )
    return name
