"""Random changes to training images, drawn from an explicit generator.

An augmentation uses a fixed number of uniform random numbers for each image. It changes uint8
pixels, before normalisation, so that padding is black. All numbers of a batch are drawn in one
call, which makes them independent of the number of threads that decode the images.
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

from alds_cli.datasets.images import IGNORED
from alds_cli.datasets.preprocessing import extent, require_resizable
from alds_cli.errors import OptionError
from alds_cli.records import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

_PADDING = 4
_ATTEMPTS = 10
_AREA = (0.08, 1.0)
"""The least and the greatest share of the area that a random crop takes."""

_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A way to change training images at random.

    Attributes:
        numbers: how many uniform numbers from [0, 1) it needs for an image.
        on_image: takes the place of resizing and cropping: (image, numbers (n,), pixels) →
            image of pixels × pixels.
        on_batch: applied after resizing and cropping: (uint8 (n, C, H, W), numbers (n, m)) →
            uint8 (n, C, H, W).
        on_mask: changes a mask, uint8 (1, H, W), as `on_image` changes its image by the same
            numbers; None where it takes no masks.
    """

    numbers: int
    on_image: Callable[[Any, Tensor, int], Any] | None = None
    on_batch: Callable[[Tensor, Tensor], Tensor] | None = None
    on_mask: Callable[[Tensor, Tensor, int], Tensor] | None = None


def crop_and_flip(images: Tensor, numbers: Tensor) -> Tensor:
    """Pad by 4 black pixels, crop at random to the old size, and mirror with probability 1/2.

    This is the augmentation of He et al. 2016, section 4.2, for CIFAR.

    Args:
        images: uint8 tensor of shape (n, C, H, W), on any device.
        numbers: uniform numbers of shape (n, 3), on the same: row, column, mirror.

    Returns:
        uint8 tensor of shape (n, C, H, W).
    """
    height, width = images.shape[2:]
    offsets = (numbers[:, :2] * (2 * _PADDING + 1)).long()
    windows = F.pad(images, [_PADDING] * 4).unfold(2, height, 1).unfold(3, width, 1)
    each = torch.arange(len(images), device=images.device)
    cropped = windows[each, :, offsets[:, 0], offsets[:, 1]]
    mirrored = (numbers[:, 2] < 0.5)[:, None, None, None]
    return torch.where(mirrored, cropped.flip(3), cropped)


def resized_crop_and_flip(
    image: Tensor | Image.Image, numbers: Tensor, pixels: int
) -> Tensor | Image.Image:
    """Crop 8 to 100 % of the area at an aspect ratio of 3:4 to 4:3, resize, mirror at random.

    This is the augmentation of Szegedy et al. 2015 for ImageNet, as in torchvision's
    `RandomResizedCrop` followed by `RandomHorizontalFlip`.

    Args:
        image: a PIL image, or a uint8 tensor of shape (C, H, W).
        numbers: 23 uniform numbers.
        pixels: height and width of the result.
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


def scaled_crop_and_flip(
    image: Tensor | Image.Image, numbers: Tensor, pixels: int
) -> Tensor | Image.Image:
    """Resize at random, crop at random, and mirror with probability 1/2.

    The shorter side becomes about half to twice as long as the crop (256 to 1024 pixels for one of
    513); where the image is smaller than the crop, black is added to the right and below. This is
    the augmentation for segmentation of the paper's supplement B.3, as in torchvision's references.

    Args:
        image: a PIL image, or a uint8 tensor of shape (C, H, W).
        numbers: 4 uniform numbers: scale, row, column, mirror.
        pixels: height and width of the result.
    """
    return _scaled_crop(image, numbers, pixels, fill=0)


def scaled_crop_and_flip_mask(mask: Tensor, numbers: Tensor, pixels: int) -> Tensor:
    """Change a mask (1, H, W) as `scaled_crop_and_flip` does; what is added has no class."""
    changed = _scaled_crop(mask, numbers, pixels, fill=IGNORED)
    assert isinstance(changed, Tensor)  # noqa: S101 - as the mask is
    return changed


def _scaled_crop(
    image: Tensor | Image.Image, numbers: Tensor, pixels: int, *, fill: int
) -> Tensor | Image.Image:
    from torchvision.transforms import InterpolationMode, functional  # noqa: PLC0415 - slow

    scale, row, column, mirror = numbers.tolist()
    least, most = max(1, (pixels - 1) // 2), max(1, 2 * (pixels - 1))
    side = least + int(scale * (most - least + 1))
    require_resizable(image, [side])
    mode = InterpolationMode.NEAREST_EXACT if fill else InterpolationMode.BILINEAR
    image = functional.resize(image, [side], mode, antialias=not fill)
    height, width = extent(image)
    missing = [0, 0, max(0, pixels - width), max(0, pixels - height)]
    if any(missing):
        image = functional.pad(image, missing, fill=fill)
        height, width = extent(image)
    top, left = int(row * (height - pixels + 1)), int(column * (width - pixels + 1))
    cropped: Tensor | Image.Image = functional.crop(image, top, left, pixels, pixels)
    return functional.hflip(cropped) if mirror < 0.5 else cropped


def _random_box(height: int, width: int, numbers: Tensor) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the first of ten random boxes that fits the image.

    If none fits, return the largest central box with an aspect ratio that is allowed.
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
        "scaled-crop-flip": Augmentation(
            4, on_image=scaled_crop_and_flip, on_mask=scaled_crop_and_flip_mask
        ),
    }
)
"""Augmentations by name."""


def choose_augmentation(name: str, preprocessing: Preprocessing, *, masks: bool = False) -> str:
    """Return the name of the augmentation, resolving `auto` by the preprocessing.

    `auto` means `scaled-crop-flip` for images with masks. For others it means `resized-crop-flip`
    if the preprocessing resizes or crops images, and `crop-flip` if they have the network's size
    already.

    Raises:
        OptionError: there is no augmentation of that name.
    """
    if name == "auto" and masks:
        return "scaled-crop-flip"
    if name == "auto":
        resizes = preprocessing.resize is not None or preprocessing.crop is not None
        return "resized-crop-flip" if resizes else "crop-flip"
    if name not in AUGMENTATIONS:
        raise OptionError(
            f"there is no augmentation '{name}'",
            tip=f"choose one of auto, {', '.join(AUGMENTATIONS)}",
        )
    return name
