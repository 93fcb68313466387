"""Images prepared as the processors of `transformers` and the transforms of timm prepare them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image
from transformers_folders import saved

import alds_cli
from alds_cli import api
from alds_cli.architectures import default_preprocessing, preprocessing_of_folder
from alds_cli.checkpoint.model_folder import ModelFolder
from alds_cli.datasets import Batches, ImageFiles
from alds_cli.records import Architecture, Preprocessing

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own

SIZES = [(50, 70), (70, 50), (64, 64), (33, 90)]


def pixels(size, seed=0):
    """Random colours in blocks of 4 × 4 pixels, so that resizing leaves something of them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    return (
        coarse[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]]
    )


def prepared(dataset, preprocessing):
    ((inputs, _),) = Batches(dataset, preprocessing, batch_size=1)
    return inputs


def folder_with(tmp_path, **content):
    return ModelFolder(tmp_path, {}, content)


def stated(tmp_path, **content):
    network = Architecture("transformers:ViTForImageClassification")
    return preprocessing_of_folder(folder_with(tmp_path, **content), network)


PROCESSORS = [
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
    {"image_processor_type": "ViTFeatureExtractor", "size": 48, "resample": 3},
    {
        "image_processor_type": "ViTImageProcessorFast",
        "size": {"height": 40, "width": 40},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
    },
    {"image_processor_type": "ViTImageProcessor", "size": 32, "do_rescale": False},
    {"image_processor_type": "ViTImageProcessor", "size": 32, "do_normalize": False},
    {"image_processor_type": "ViTImageProcessor", "size": 32, "rescale_factor": 1 / 127.5},
    {
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "size": {"shortest_edge": 40},
        "crop_pct": 0.875,
    },
    {"image_processor_type": "ConvNextImageProcessor", "size": 33, "crop_pct": 0.95},
    {"image_processor_type": "ConvNextImageProcessor", "size": 40},
    {"image_processor_type": "ConvNextImageProcessor", "size": 384, "resample": 2},
    {"image_processor_type": "BitImageProcessor", "size": 40, "crop_size": 33},
    {"image_processor_type": "DeiTImageProcessor", "size": 36, "crop_size": 32},
]


@pytest.mark.parametrize("content", PROCESSORS, ids=str)
def test_images_are_prepared_as_by_the_processor_of_the_library(content, tmp_path):
    transformers = pytest.importorskip("transformers", reason="an extra")
    stated_name = next(value for key, value in content.items() if key.endswith("_type"))
    name = stated_name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    usual = getattr(transformers, name)
    by_pillow = getattr(transformers, f"{name}Pil", usual)
    if by_pillow is usual and stated_name.endswith("Fast"):
        pytest.skip("before transformers 5, this processor took another form of the description")
    preprocessing = stated(tmp_path, **content)
    level = 1 / 255 / min(preprocessing.std)
    for size in SIZES:
        image = pixels(size)
        # PyTorch resamples as Pillow does but for rounding, if nothing leaves the range of bytes.
        for kind, colours, tolerance in (
            (by_pillow, image, 1e-3 * level),
            (usual, image // 2 + 64, 2.1 * level),
        ):
            picture = Image.fromarray(colours.permute(1, 2, 0).numpy())
            picture.save(tmp_path / "x.png")
            found = prepared(
                ImageFiles("x", [tmp_path / "x.png"], torch.tensor([0])), preprocessing
            )
            made = kind.from_dict(dict(content))(picture, return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(found, made.float(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"feature_extractor_type": "WhisperFeatureExtractor", "size": 32},
        {"image_processor_type": "NobodysImageProcessor"},
        {"image_processor_type": "EfficientNetImageProcessor", "size": 32},
        {"image_processor_type": 3},
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 24}},
        {"image_processor_type": "ViTImageProcessor", "size": 32, "resample": 0},
        {"image_processor_type": "ViTImageProcessor", "size": 32, "do_pad": True},
        {"image_processor_type": "ViTImageProcessor", "size": 32, "image_std": [0.5, 0, 0.5]},
        {"image_processor_type": "ViTImageProcessor", "size": 32, "image_mean": ["a", "b", "c"]},
        {"image_processor_type": "ViTImageProcessor", "size": 32, "rescale_factor": 0},
        {"image_processor_type": "ViTImageProcessor", "size": "large"},
        {"image_processor_type": "ViTImageProcessor", "size": 10**6},
        {"image_processor_type": "DeiTImageProcessor", "size": 32, "crop_size": 40},
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 32, "longest_edge": 64},
        },
        {
            "image_processor_type": "ConvNextImageProcessor",
            "size": 32,
            "do_center_crop": True,
            "crop_size": 24,
        },
    ],
    ids=str,
)
def test_what_a_preprocessing_cannot_say_is_not_known(content, tmp_path):
    pytest.importorskip("transformers", reason="an extra")
    assert stated(tmp_path, **content) is None


def test_a_folders_preprocessing_counts_for_networks_of_the_library_alone(tmp_path):
    folder = folder_with(tmp_path, image_processor_type="ViTImageProcessor", size=32)
    assert preprocessing_of_folder(folder, Architecture("resnet18")) is None
    assert preprocessing_of_folder(None, Architecture("transformers:ViTModel")) is None


def test_the_preprocessing_of_a_folder_travels_with_the_artefact(run, tmp_path):
    pytest.importorskip("transformers", reason="an extra")
    folder = saved("vit", tmp_path / "vit")
    content = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        picture = pixels((50, 70), seed=ord(name)).permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(tmp_path / "images" / name / "x.png")
    data = f"imagefolder:{tmp_path / 'images'}"
    api.compress(folder, ratio=0.2, method="pca", data=data, output=tmp_path / "small")
    api.compress(folder, ratio=0.2, output=tmp_path / "small.pt")
    expected = Preprocessing((0.5,) * 3, (0.5,) * 3, 32, None, True, "bicubic", True)
    for output in ("small", "small.pt"):
        assert alds_cli.inspect(tmp_path / output).network.preprocessing == expected
    beside = tmp_path / "small" / "preprocessor_config.json"
    assert json.loads(beside.read_text()) == content
    code, told, _ = run("evaluate", tmp_path / "small", "--data", data, "--json")
    assert code == 0
    assert json.loads(told)["preprocessing"] == json.loads(json.dumps(dataclasses.asdict(expected)))


TIMM = [
    "vit_tiny_patch16_224",  # bicubic, center, crop_pct 0.9
    "mobilenetv3_small_100",
    "resnet18.a1_in1k",
    "convnext_tiny.fb_in22k_ft_in1k_384",  # squash, crop_pct 1.0
]


@pytest.mark.parametrize("name", TIMM)
def test_images_are_prepared_as_by_the_transform_of_timm(name, tmp_path):
    timm = pytest.importorskip("timm", reason="an extra")
    from timm.data import create_transform, resolve_data_config  # noqa: PLC0415 - an extra

    configuration = timm.get_pretrained_cfg(name).to_dict()
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=configuration))
    preprocessing = default_preprocessing(Architecture(f"timm:{name}"))
    for size in SIZES:
        path = tmp_path / "x.png"
        Image.fromarray(pixels(size).permute(1, 2, 0).numpy()).save(path)
        found = prepared(ImageFiles("x", [path], torch.tensor([0])), preprocessing)
        with Image.open(path) as picture:
            expected = transform(picture)[None]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"crop_mode": "border"}, {"interpolation": "lanczos"}, {"input_size": (3, 32, 48)}]
)
def test_what_timm_does_otherwise_is_not_known(changes, monkeypatch):
    timm = pytest.importorskip("timm", reason="an extra")
    configuration = dataclasses.replace(timm.get_pretrained_cfg("resnet18"), **changes)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: configuration)
    assert default_preprocessing(Architecture("timm:resnet18")) is None
