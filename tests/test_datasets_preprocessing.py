"""Preprocessing: equal to torchvision's to the bit, and options that explain themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms._presets import ImageClassification

from alds_cli.datasets import (
    PRESETS,
    Batches,
    ImageFiles,
    TensorImages,
    parse_preprocessing,
)
from alds_cli.datasets.preprocessing import fit, normalise
from alds_cli.errors import DataError, OptionError
from alds_cli.records import Preprocessing


def pixels(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", PRESETS)
def test_normalising_is_the_formula_in_float32(name):
    preset = PRESETS[name]
    images = pixels(4, len(preset.mean), 5, 7)
    before = images.clone()
    mean = np.asarray(preset.mean, dtype=np.float32)[:, None, None]
    std = np.asarray(preset.std, dtype=np.float32)[:, None, None]
    expected = (images.numpy().astype(np.float32) / np.float32(255) - mean) / std
    result = normalise(images, preset)
    assert result.dtype == torch.float32
    assert np.array_equal(result.numpy(), expected)
    assert torch.equal(images, before)


SIZES = [(300, 200), (200, 300), (256, 256), (31, 57), (500, 333), (224, 224)]


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_becomes_what_torchvision_makes_of_it(size, tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(pixels(*size, 3).numpy()).save(path)
    batches = Batches(ImageFiles("x", [path], torch.tensor([0])), PRESETS["imagenet"], batch_size=1)
    (inputs, _), *_ = batches
    with Image.open(path) as picture:
        expected = ImageClassification(crop_size=224)(picture)
    assert torch.equal(inputs[0], expected)
    assert batches.input_shape == (3, 224, 224)


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_tensors_becomes_what_torchvision_makes_of_it(size):
    images = pixels(3, 3, *size)
    dataset = TensorImages("x", [images], torch.arange(3))
    (inputs, _), *_ = Batches(dataset, PRESETS["imagenet"], batch_size=3)
    assert torch.equal(inputs, ImageClassification(crop_size=224)(images))


def test_an_image_smaller_than_the_crop_is_refused():
    with pytest.raises(DataError, match="20 × 40 pixels is smaller than the crop of 24"):
        fit(pixels(3, 20, 40), Preprocessing((0.5,) * 3, (0.5,) * 3, crop=24))


def test_resizing_alone_keeps_the_aspect():
    assert fit(pixels(3, 20, 40), Preprocessing((0.5,), (0.5,), resize=10)).shape == (3, 10, 20)


CUBIC = Preprocessing((0.1,), (0.4,), 40, 32, interpolation="bicubic", crop_down=True)
FALLBACK = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), resize=40, crop=32)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"preset": "imagenet"}, PRESETS["imagenet"]),
        ({"preset": "imagenet", "fallback": FALLBACK}, PRESETS["imagenet"]),
        ({"fallback": FALLBACK}, FALLBACK),
        (
            {"mean": "0.5, 0.5,0.5", "std": "1 1 1", "fallback": FALLBACK},
            Preprocessing((0.5,) * 3, (1.0,) * 3, 40, 32),
        ),
        ({"mean": "0.5", "std": "0.25"}, Preprocessing((0.5,), (0.25,))),
        (
            {"mean": "0.5", "std": "0.25", "interpolation": "bicubic"},
            Preprocessing((0.5,), (0.25,), interpolation="bicubic"),
        ),
        (
            {"resize": 48, "fallback": CUBIC},
            Preprocessing((0.1,), (0.4,), 48, 32, interpolation="bicubic", crop_down=True),
        ),
        (
            {"preset": "imagenet", "resize": 232, "crop": 0},
            Preprocessing(PRESETS["imagenet"].mean, PRESETS["imagenet"].std, 232, None),
        ),
        (
            {"preset": "cifar10", "std": ".5,.5,.5"},
            Preprocessing(PRESETS["cifar10"].mean, (0.5,) * 3),
        ),
        (
            {"preset": "imagenet", "resize": 0, "crop": 0},
            PRESETS["imagenet-stats"],
        ),
    ],
)
def test_stated_values_over_preset_over_fallback(arguments, expected):
    assert parse_preprocessing(**arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "not known"),
        ({"mean": "0.5,0.5,0.5"}, "not known"),
        ({"resize": 256, "crop": 224}, "not known"),
        ({"preset": "imagnet"}, "no preset 'imagnet'"),
        ({"preset": "imagnet", "fallback": FALLBACK}, "no preset 'imagnet'"),
        ({"mean": "a,b", "std": "1,1"}, "mean 'a,b' is not a list"),
        ({"mean": "", "std": "1"}, "mean '' is not a list"),
        ({"mean": "nan", "std": "1"}, "mean 'nan' is not a list"),
        ({"mean": "0.5,0.5,0.5", "std": "0.5"}, "mean has 3 values but std has 1"),
        ({"mean": "0.5", "std": "0"}, "std must be positive"),
        ({"mean": "0.5", "std": "inf"}, "std 'inf'"),
        ({"preset": "half", "resize": -1}, "resize -1"),
        ({"preset": "half", "interpolation": "cubic"}, "no interpolation 'cubic'"),
        ({"preset": "half", "resize": 100, "crop": 200}, "crop 200 is larger than resize 100"),
    ],
)
def test_options_without_sense_are_refused(arguments, message):
    with pytest.raises(OptionError, match=message) as caught:
        parse_preprocessing(**arguments)
    assert "--preprocess" in caught.value.tip


def test_all_problems_are_named_at_once():
    with pytest.raises(OptionError) as caught:
        parse_preprocessing("nope", "x", "0.5", -2, -3)
    for word in ("preset 'nope'", "mean 'x'", "resize -2", "crop -3"):
        assert word in caught.value.message
