"""Augmentation: each change is one that a slow reading of its recipe gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from alds_cli.datasets import AUGMENTATIONS, PRESETS, choose_augmentation
from alds_cli.datasets.augmentation import _random_box, crop_and_flip, resized_crop_and_flip
from alds_cli.errors import OptionError


def pixels(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)


def test_crop_and_flip_is_the_slow_reading_of_the_recipe():
    images = pixels(64, 3, 8, 6)
    numbers = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    padded = F.pad(images, (4, 4, 4, 4))
    for image, frame, (row, column, mirror) in zip(
        crop_and_flip(images, numbers), padded, numbers.tolist(), strict=True
    ):
        top, left = int(9 * row), int(9 * column)
        expected = frame[:, top : top + 8, left : left + 6]
        assert torch.equal(image, expected.flip(2) if mirror < 0.5 else expected)


def test_crop_and_flip_reaches_every_offset_and_nothing_beyond():
    grid = torch.tensor([0.0, 0.999999])
    numbers = torch.cartesian_prod(grid, grid, torch.tensor([0.7]))
    result = crop_and_flip(pixels(4, 1, 8, 8), numbers)
    assert result.shape == (4, 1, 8, 8)
    # The corner offsets show four black rows and columns on the side they went over.
    assert (result[0, 0, :4] == 0).all()
    assert (result[0, 0, :, :4] == 0).all()
    assert (result[3, 0, 4:] == 0).all()
    assert (result[3, 0, :, 4:] == 0).all()


def test_the_middle_crop_unmirrored_is_the_image():
    images = pixels(5, 3, 8, 8)
    assert torch.equal(crop_and_flip(images, torch.full((5, 3), 0.5)), images)


@given(
    st.integers(1, 600),
    st.integers(1, 600),
    st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=22, max_size=22),
)
def test_a_random_box_lies_in_the_image(height, width, drawn):
    top, left, box_height, box_width = _random_box(height, width, torch.tensor(drawn))
    assert box_height >= 1
    assert box_width >= 1
    assert 0 <= top <= height - box_height
    assert 0 <= left <= width - box_width


def test_random_boxes_have_the_areas_and_aspects_of_the_recipe():
    generator = torch.Generator().manual_seed(0)
    boxes = [_random_box(200, 250, torch.rand(22, generator=generator)) for _ in range(500)]
    areas = torch.tensor([h * w / 50_000 for _, _, h, w in boxes])
    aspects = torch.tensor([w / h for _, _, h, w in boxes])
    assert 0.07 < areas.min() < 0.15
    assert 0.85 < areas.max() <= 1
    assert 0.72 < aspects.min() < 0.78
    assert 1.28 < aspects.max() < 1.38


@pytest.mark.parametrize("kind", ["tensor", "picture"])
def test_resized_crops_have_the_asked_size(kind):
    image = pixels(3, 40, 60)
    if kind == "picture":
        image = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    numbers = torch.rand(23, generator=torch.Generator().manual_seed(3))
    result = resized_crop_and_flip(image, numbers, 16)
    assert (result.shape[1:] if kind == "tensor" else result.size) == (16, 16)


def test_a_full_resized_crop_is_the_image_and_its_mirror():
    image = pixels(3, 32, 32)
    numbers = torch.full((23,), 0.9)
    numbers[3::2] = 1 - 2**-24  # the area; it rounds to the whole image
    numbers[4::2] = 0.5  # a square
    assert torch.equal(resized_crop_and_flip(image, numbers, 32), image)
    numbers[0] = 0.1
    assert torch.equal(resized_crop_and_flip(image, numbers, 32), image.flip(2))


def test_auto_goes_by_the_preprocessing():
    assert choose_augmentation("auto", PRESETS["imagenet"]) == "resized-crop-flip"
    assert choose_augmentation("auto", PRESETS["cifar10"]) == "crop-flip"
    for name in AUGMENTATIONS:
        assert choose_augmentation(name, PRESETS["cifar10"]) == name
    with pytest.raises(OptionError, match="no augmentation 'mixup'"):
        choose_augmentation("mixup", PRESETS["cifar10"])
