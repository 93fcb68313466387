"""Preprocessing: turning uint8 pixels into the float32 input of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, cast, get_args, overload

import torch
from torch import Tensor

from alds_cli.errors import DataError, OptionError
from alds_cli.forms import MOST_PIXELS
from alds_cli.inputs import MOST_ELEMENTS
from alds_cli.records import Interpolation, Preprocessing

if TYPE_CHECKING:
    from PIL import Image

CHANNELS = (1, 3)
"""The numbers of channels an image may have: grey or red, green and blue."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PRESETS: Mapping[str, Preprocessing] = MappingProxyType(
    {
        # torchvision's published ImageNet weights: resize 256, crop 224.
        "imagenet": Preprocessing(_IMAGENET_MEAN, _IMAGENET_STD, resize=256, crop=224),
        # The same statistics, for images that have the network's size already.
        "imagenet-stats": Preprocessing(_IMAGENET_MEAN, _IMAGENET_STD),
        "cifar10": Preprocessing((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "cifar100": Preprocessing((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        # The segmentation of the paper's supplement B.3.
        "voc2012": Preprocessing(_IMAGENET_MEAN, _IMAGENET_STD, resize=513, stretch=True),
        "mnist": Preprocessing((0.1307,), (0.3081,)),
        # Pixels from -1 to 1.
        "half": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        # Pixels from 0 to 1.
        "unit": Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    }
)
"""Preprocessing by name, for `--preprocess`."""


def parse_preprocessing(
    preset: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    resize: int | None = None,
    crop: int | None = None,
    stretch: bool = False,
    interpolation: str | None = None,
    fallback: Preprocessing | None = None,
) -> Preprocessing:
    """Choose the preprocessing: given values first, then the preset, then the fallback.

    Args:
        preset: a name in `PRESETS`.
        mean: a number for each channel on the scale of [0, 1], such as "0.5,0.5,0.5".
        std: a positive number for each channel.
        resize: pixels of the shorter side, at most 8,192; 0 leaves the step out.
        crop: pixels of the central square, at most 8,192; 0 leaves the step out.
        stretch: whether `resize` is the length of both sides. A `resize` that is given without
            it is that of the shorter side, whatever the preset or the fallback says.
        interpolation: "bilinear" or "bicubic", how to resize.
        fallback: the preprocessing known from the checkpoint or its architecture.

    Raises:
        OptionError: a value is invalid, or mean and std are not known; every problem is
            listed.
    """
    problems: list[str] = []
    if preset is not None and preset not in PRESETS:
        problems.append(f"there is no preset '{preset}'; there are {', '.join(PRESETS)}")
    base = PRESETS.get(preset, fallback) if preset is not None else fallback
    means = _numbers("mean", mean, problems) or (base.mean if base else None)
    stds = _numbers("std", std, problems) or (base.std if base else None)
    sizes = (
        _pixels("resize", resize, base.resize if base else None, problems),
        _pixels("crop", crop, base.crop if base else None, problems),
    )
    stretched = stretch or (resize is None and base is not None and base.stretch)
    if stretched and not sizes[0]:
        problems.append("stretch says how to resize, but resize is not given")
    kind = _interpolation(interpolation, base, problems)
    if sizes[0] and sizes[1] and sizes[0] < sizes[1]:
        problems.append(f"crop {sizes[1]} is larger than resize {sizes[0]}")
    if means and stds:
        problems += _statistics_problems(means, stds)
    elif not problems:
        problems.append("how the images were normalised is not known")
    if problems or not means or not stds:
        raise OptionError(
            "; ".join(problems),
            tip=f"use --preprocess ({', '.join(PRESETS)}), or --mean and --std",
        )
    down = base is not None and base.crop_down
    return Preprocessing(means, stds, *sizes, stretched, kind, crop_down=down)


def _numbers(option: str, text: str | None, problems: list[str]) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) for value in values):
        problems.append(f"{option} '{text}' is not a list of numbers such as 0.5,0.5,0.5")
        return None
    return values


def _pixels(option: str, given: int | None, known: int | None, problems: list[str]) -> int | None:
    if given is None:
        return known
    if not 0 <= given <= MOST_PIXELS:
        problems.append(f"{option} {given} is not a number of pixels from 0 to {MOST_PIXELS:,}")
    return given or None


def _interpolation(
    given: str | None, base: Preprocessing | None, problems: list[str]
) -> Interpolation:
    for name in get_args(Interpolation):
        if name == given:
            return cast("Interpolation", name)
    if given is not None:
        known = " and ".join(get_args(Interpolation))
        problems.append(f"there is no interpolation '{given}'; there are {known}")
    return base.interpolation if base else "bilinear"


def _statistics_problems(means: tuple[float, ...], stds: tuple[float, ...]) -> list[str]:
    problems = []
    if len(means) != len(stds):
        problems.append(f"mean has {len(means)} values but std has {len(stds)}")
    if any(value <= 0 for value in stds):
        problems.append(f"std must be positive in every channel, not {list(stds)}")
    return problems


@overload
def fit(image: Tensor, preprocessing: Preprocessing) -> Tensor: ...
@overload
def fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image: ...
def fit(image: Tensor | Image.Image, preprocessing: Preprocessing) -> Tensor | Image.Image:
    """Resize the shorter side, or both, and crop the centre, as torchvision's presets do.

    Resizing is bilinear or bicubic, with antialiasing. Like in torchvision, a PIL image is
    resampled by Pillow and a tensor by PyTorch.

    Args:
        image: a PIL image, or a uint8 tensor of shape (..., C, H, W).
        preprocessing: the steps; those that are None are left out.

    Returns:
        An image of the same type.

    Raises:
        DataError: the image is smaller than the crop, or resizing would give more than
            `MOST_ELEMENTS` numbers.
    """
    from torchvision.transforms import InterpolationMode, functional  # noqa: PLC0415 - slow

    if preprocessing.resize is not None:
        sides = [preprocessing.resize] * (1 + preprocessing.stretch)
        require_resizable(image, sides)
        kind = InterpolationMode(preprocessing.interpolation)
        image = functional.resize(image, sides, kind, antialias=True)
    if preprocessing.crop is not None:
        height, width = extent(image)
        if min(height, width) < preprocessing.crop:
            raise DataError(
                f"an image of {height} × {width} pixels is smaller than the crop of "
                f"{preprocessing.crop}",
                tip="add --resize, or give a smaller --crop",
            )
        image = functional.crop(image, *_centre(extent(image), preprocessing))
    return image


def fit_mask(mask: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop a mask of uint8 numbers (1, H, W) as `fit` does its image.

    Every pixel takes the number of the nearest one, since numbers of classes have no mean.

    Raises:
        DataError: as `fit` does.
    """
    from torchvision.transforms import InterpolationMode, functional  # noqa: PLC0415 - slow

    if preprocessing.resize is not None:
        sides = [preprocessing.resize] * (1 + preprocessing.stretch)
        mask = functional.resize(mask, sides, InterpolationMode.NEAREST_EXACT)
    if preprocessing.crop is not None:
        mask = functional.crop(mask, *_centre(extent(mask), preprocessing))
    return mask


def _centre(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the central square of an image of that size."""
    assert preprocessing.crop is not None  # noqa: S101 - the callers make sure
    half = math.floor if preprocessing.crop_down else round
    top, left = (half((side - preprocessing.crop) / 2) for side in size)
    return top, left, preprocessing.crop, preprocessing.crop


def require_resizable(image: Tensor | Image.Image, sides: Sequence[int]) -> None:
    """Raise if resizing gives too many numbers: a line of pixels may become millions of columns.

    Args:
        image: the image.
        sides: the length of the shorter side in pixels, or those of both.

    Raises:
        DataError: it gives more than `MOST_ELEMENTS` numbers.
    """
    height, width = extent(image)
    images = math.prod(image.shape[:-2]) if isinstance(image, Tensor) else CHANNELS[-1]
    pixels = sides[0]
    longer = sides[1] if len(sides) > 1 else pixels * max(height, width) // min(height, width)
    if images * pixels * longer > MOST_ELEMENTS:
        many = image.ndim > 3 and len(image) > 1 if isinstance(image, Tensor) else False
        what = f"{len(image):,} images" if many and isinstance(image, Tensor) else "an image"
        raise DataError(
            f"{what} of {height:,} × {width:,} pixels would take more than "
            f"{MOST_ELEMENTS:,} numbers, resized to {pixels:,}",
            tip="give a smaller --resize" + " or a smaller --batch-size" * many,
        )


def extent(image: Tensor | Image.Image) -> tuple[int, int]:
    """Return (height, width) of a PIL image or of a tensor of shape (..., H, W)."""
    if isinstance(image, Tensor):
        return (image.shape[-2], image.shape[-1])
    return (image.height, image.width)


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return (x / 255 − mean) / std in float32, channel by channel.

    Args:
        images: uint8 tensor of shape (..., C, H, W).
        preprocessing: has the mean and the standard deviation of C channels.

    Returns:
        A new float32 tensor of the same shape, where the pixels are; on a CPU equal to the bit to
        torchvision's.
    """
    device = images.device
    mean = torch.tensor(preprocessing.mean, dtype=torch.float32, device=device)[:, None, None]
    std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device)[:, None, None]
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def check_channels(channels: int, preprocessing: Preprocessing, name: str) -> None:
    """Raise if mean and std are for another number of channels than the images have.

    Raises:
        DataError: the numbers differ; the message names both.
    """
    if len(preprocessing.mean) != channels:
        raise DataError(
            f"{name} has images of {channels} channel{'s' * (channels != 1)}, but mean and std "
            f"are given for {len(preprocessing.mean)}",
            tip=f"give {channels} value{'s' * (channels != 1)} each in --mean and --std, "
            "or another --preprocess",
        )
