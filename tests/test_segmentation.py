"""Images with masks: what they are read from, how they are changed, and how networks do on them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.io import savemat
from torch import nn
from torch.nn import functional as F

import alds_cli
from alds_cli.datasets import (
    PRESETS,
    Batches,
    MaskedImages,
    TensorImages,
    choose_augmentation,
    open_dataset,
)
from alds_cli.datasets.augmentation import scaled_crop_and_flip, scaled_crop_and_flip_mask
from alds_cli.datasets.masked_images import MaskedTensors
from alds_cli.errors import DataError, NoLogitsError, OptionError
from alds_cli.evaluation import mask_loss, measure_masks
from alds_cli.evaluation.segmentation import PixelTally
from alds_cli.records import Preprocessing
from alds_cli.tracing.logits import mask_logits_of

CPU = torch.device("cpu")


def pixels(*shape, seed=0, most=256):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, most, shape, dtype=torch.uint8, generator=generator)


# ---------------------------------------------------------------- figures


def by_hand(answers, masks, classes):
    """Pixel accuracy and mean IoU, class by class in NumPy; answers beyond the classes are none."""
    answers, masks = answers.numpy().ravel(), masks.numpy().ravel()
    answers, masks = answers[masks != 255], masks[masks != 255]
    shares = []
    for number in range(classes):
        union = ((answers == number) | (masks == number)).sum()
        if union:
            shares.append(((answers == number) & (masks == number)).sum() / union)
    return 100 * (answers == masks).mean(), 100 * np.mean(shares)


CASES = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


@given(CASES, st.integers(0, 2**31), st.booleans())
@settings(max_examples=60, deadline=None)
def test_figures_are_those_of_a_loop_over_classes(sizes, seed, undefined):
    classes, images, height, width = sizes
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, classes + 1, (images, height, width), generator=generator)
    masks[masks == classes] = 255
    masks[0, 0, 0] = 0
    logits = torch.randn(images, classes, height, width, generator=generator)
    expected = logits.argmax(1)
    if undefined:
        logits[0, 0, 0, 0] = torch.nan
        expected[0, 0, 0] = classes
    tally = PixelTally()
    for own, mask in zip(logits.split(1), masks.split(1), strict=True):
        tally.add(own, mask)
    found = tally.quality()
    accuracy, iou = by_hand(expected, masks, classes)
    assert found.pixel_accuracy == pytest.approx(accuracy)
    assert found.mean_iou == pytest.approx(iou)
    assert found.images == images
    loss = F.cross_entropy(logits, masks, ignore_index=255)
    assert found.loss == pytest.approx(float(loss), rel=1e-5, nan_ok=True)


@pytest.mark.slow
def test_figures_are_those_of_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.classification")
    masks = pixels(4, 16, 16, most=7).long()
    masks[masks == 6] = 255
    logits = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    logits[:, 7] = -9  # a class that neither occurs nor is given
    tally = PixelTally()
    tally.add(logits, masks)
    answers = logits.argmax(1)
    iou = metrics.MulticlassJaccardIndex(8, ignore_index=255)(answers, masks)
    accuracy = metrics.MulticlassAccuracy(8, average="micro", ignore_index=255)(answers, masks)
    assert tally.quality().mean_iou == pytest.approx(100 * float(iou), rel=1e-5)
    assert tally.quality().pixel_accuracy == pytest.approx(100 * float(accuracy), rel=1e-5)


def test_an_image_without_any_class_counts_for_nothing():
    tally = PixelTally()
    tally.add(torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 255))
    with pytest.raises(DataError, match="no pixel of the 1 images has a class"):
        tally.quality()
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 1] = 1
    tally.add(logits, torch.ones(1, 4, 4, dtype=torch.int64))
    assert (tally.quality().pixel_accuracy, tally.quality().mean_iou) == (100, 100)


@pytest.mark.parametrize("number", [3, 254])
def test_classes_that_the_network_has_not_are_named(number):
    masks = torch.zeros(1, 2, 2, dtype=torch.int64)
    masks[0, 1, 1] = number
    with pytest.raises(DataError, match=f"class {number}, outside the network's 3 classes"):
        PixelTally().add(torch.zeros(1, 3, 2, 2), masks)


def test_the_loss_is_the_mean_over_pixels_with_a_class():
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    masks = pixels(2, 3, 3, most=5).long()
    masks[masks == 4] = 255
    expected = F.cross_entropy(logits, masks, ignore_index=255, label_smoothing=0.1)
    assert torch.allclose(mask_loss(logits, masks, 0.1), expected)
    nothing = mask_loss(logits, torch.full((2, 3, 3), 255))
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()


# ---------------------------------------------------------------- networks


class Painting(nn.Module):
    """Gives every pixel logits that its colour determines; `change` makes the output of them."""

    def __init__(self, change=lambda logits: logits, classes=5, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.change = nn.Conv2d(3, classes, 1), change

    def forward(self, x):
        return self.change(self.layer(x))


class Named(dict):
    def __getattr__(self, name):
        return self[name]


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y,
        lambda y: {"out": y, "aux": -y},
        lambda y: {"logits": y},
        lambda y: Named(logits=y),
        lambda y: (y, -y),
        lambda y: y.double(),
        lambda y: y.half(),
    ],
)
def test_logits_are_found_in_every_usual_output(change):
    inputs = torch.rand(2, 3, 6, 5)
    module = Painting(change)
    masks = module.layer(inputs).argmax(1)
    found, comparison = measure_masks({"one": module}, [(inputs, masks)], device=CPU)
    assert found["one"].pixel_accuracy > 99
    assert comparison is None


def test_logits_of_a_quarter_are_resized_to_the_mask():
    small = torch.randn(2, 5, 3, 4)
    found = mask_logits_of({"logits": small}, (2, 12, 16), "evaluated")
    expected = F.interpolate(small, (12, 16), mode="bilinear", align_corners=False)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2, 5), r"a tensor of shape \(2, 5\) for 2 images"),
        (torch.zeros(1, 5, 4, 4), r"shape \(1, 5, 4, 4\) for 2 images"),
        (torch.zeros(2, 0, 4, 4), r"shape \(2, 0, 4, 4\)"),
        (torch.zeros(2, 5, 4, 4, dtype=torch.int64), "a tensor"),
        ({"boxes": 1}, "a dict of 'boxes'"),
        (None, "a NoneType"),
        ([], "a list"),
    ],
)
def test_outputs_that_segment_nothing_are_described(output, message):
    with pytest.raises(NoLogitsError, match=message) as caught:
        mask_logits_of(output, (2, 4, 4), "evaluated with masks")
    assert "segment" in caught.value.tip


def masked(count=5, size=(6, 7), classes=5, ignored=0.2):
    masks = pixels(count, *size, seed=1, most=classes)
    masks[torch.rand(masks.shape, generator=torch.Generator().manual_seed(2)) < ignored] = 255
    return MaskedTensors("set", [pixels(count, 3, *size)], [masks])


def test_networks_are_compared_pixel_by_pixel():
    data = masked()
    one, other = Painting(seed=1), Painting(lambda y: {"out": y}, seed=2)
    result = alds_cli.evaluate(
        one, data, baseline=other, latency=False, preprocessing=PRESETS["half"], batch_size=2
    )
    inputs = (pixels(5, 3, 6, 7).float() / 255 - 0.5) / 0.5
    masks = torch.stack([data.mask(index) for index in range(5)]).long()
    answers = [module.layer(inputs).argmax(1) for module in (one, other)]
    for measured, own in zip((result.model, result.baseline), answers, strict=True):
        accuracy, iou = by_hand(own, masks, 5)
        assert measured.segmentation.pixel_accuracy == pytest.approx(accuracy)
        assert measured.segmentation.mean_iou == pytest.approx(iou)
        assert measured.quality is measured.top1_interval is None
    same = (answers[0] == answers[1])[masks != 255].double().mean()
    assert result.comparison.agreement == pytest.approx(100 * float(same))
    assert result.comparison.p_value is None
    assert result.images == 5


def test_a_network_that_classifies_is_refused():
    with pytest.raises(NoLogitsError, match="not logits of shape"):
        alds_cli.evaluate(
            nn.Sequential(nn.Flatten(), nn.Linear(126, 5)),
            masked(),
            latency=False,
            preprocessing=PRESETS["half"],
        )


def test_masks_need_no_names_of_classes():
    with pytest.raises(OptionError, match="has masks, but names"):
        alds_cli.evaluate(
            Painting(), masked(), latency=False, preprocessing=PRESETS["half"], classes=["a"]
        )


# ---------------------------------------------------------------- files


def test_masks_in_tensors_are_joined_and_are_no_labels(tmp_path):
    parts = [(pixels(count, 3, 4, 6), pixels(count, 4, 6, seed=count)) for count in (2, 3)]
    for number, (images, masks) in enumerate(parts):
        stored = {"images": images.permute(0, 2, 3, 1).contiguous(), "masks": masks}
        save_file(stored, tmp_path / f"{number}.safetensors")
    found = open_dataset(f"tensors:{tmp_path}/*.safetensors")
    assert isinstance(found, MaskedImages)
    assert (len(found), found.labelled, found.size) == (5, False, (4, 6))
    whole = torch.cat([masks for _, masks in parts])
    assert all(torch.equal(found.mask(index), whole[index]) for index in range(5))
    part = found.subset(torch.tensor([4, 0]))
    assert torch.equal(part.mask(0), whole[4])
    assert torch.equal(part.image(1), parts[0][0][0])


def test_fingerprints_count_masks():
    one = masked()
    other = MaskedTensors("set", [pixels(5, 3, 6, 7)], [pixels(5, 6, 7, seed=9, most=5)])
    assert one.fingerprint().images == other.fingerprint().images
    assert one.fingerprint().labels != other.fingerprint().labels
    assert one.subset(torch.arange(5)).fingerprint() == one.fingerprint()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"masks": torch.zeros(2, 4, 4, dtype=torch.int64)}, "'masks' is I64"),
        ({"masks": pixels(2, 4, 5)}, r"not U8 of shape \(2, 4, 4\)"),
        ({"masks": pixels(3, 4, 4)}, r"not U8 of shape \(2, 4, 4\)"),
        ({"masks": pixels(2, 4, 4, 1)}, "'masks' is U8 of shape"),
        ({"masks": pixels(2, 4, 4), "labels": torch.arange(2)}, "both 'labels' and 'masks'"),
    ],
)
def test_masks_that_do_not_fit_their_images_are_refused(tmp_path, more, message):
    save_file({"images": pixels(2, 3, 4, 4), **more}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=message):
        open_dataset(f"tensors:{tmp_path}/x.safetensors")


def test_all_files_have_masks_or_none(tmp_path):
    save_file({"images": pixels(2, 3, 4, 4), "masks": pixels(2, 4, 4)}, tmp_path / "a.safetensors")
    save_file({"images": pixels(2, 3, 4, 4)}, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match="masks in 1 of 2 files"):
        open_dataset(f"tensors:{tmp_path}/*.safetensors")


SIZES = {"t1": (12, 10), "t2": (9, 14), "v1": (10, 10), "v2": (8, 16), "s1": (11, 7), "s2": (6, 9)}
"""Height and width of images: two to train on, two held back, and two that only SBD has."""


def mask_of(name):
    mask = pixels(*SIZES[name], seed=sum(map(ord, name)), most=21)
    mask[0] = 255
    return mask


@pytest.fixture
def voc(tmp_path):
    """A VOC 2012 of four images of different sizes, as the archive lays it out."""
    base = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    for name, size in SIZES.items():
        image = Image.fromarray(pixels(*size, 3).numpy())
        image.save(base / "JPEGImages" / f"{name}.jpg")
        if name[0] != "s":
            picture = Image.fromarray(mask_of(name).numpy()).convert("P")
            picture.putdata(mask_of(name).flatten().tolist())
            picture.save(base / "SegmentationClass" / f"{name}.png")
    lists = base / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("t1\nt2\n")
    (lists / "val.txt").write_text("v1\nv2\n\n")
    return tmp_path


def masks_of(dataset):
    return [dataset.mask(index) for index in range(len(dataset))]


def require_masks(dataset, names):
    assert len(dataset) == len(names)
    for found, name in zip(masks_of(dataset), names, strict=True):
        assert torch.equal(found, mask_of(name)), name
    sizes = [dataset.image(index).size[::-1] for index in range(len(dataset))]
    assert sizes == [SIZES[name] for name in names]


@pytest.mark.parametrize("inner", ["", "VOCdevkit/VOC2012"])
def test_voc_has_its_own_two_parts(voc, inner):
    require_masks(open_dataset(f"voc2012:{voc / inner}"), ["v1", "v2"])
    require_masks(open_dataset(f"voc2012:{voc / inner}", split="train"), ["t1", "t2"])


@pytest.mark.parametrize("listed", [True, False])
def test_labels_of_sbd_as_one_folder_are_used(voc, listed):
    base = voc / "VOCdevkit/VOC2012"
    (base / "SegmentationClassAug").mkdir()
    for name in SIZES:
        path = base / "SegmentationClassAug" / f"{name}.png"
        Image.fromarray(mask_of(name).numpy()).save(path)
    if listed:
        (base / "ImageSets/Segmentation/trainaug.txt").write_text("s1\nt2\nv1\n")
    expected = ["s1", "t2"] if listed else ["s1", "s2", "t1", "t2"]
    require_masks(open_dataset(f"voc2012:{voc}", split="train"), expected)
    require_masks(open_dataset(f"voc2012:{voc}"), ["v1", "v2"])


@pytest.fixture
def sbd(voc):
    folder = voc / "benchmark_RELEASE/dataset"
    (folder / "cls").mkdir(parents=True)
    for name in ("s1", "s2", "v1", "t1"):
        kind = np.dtype([("Boundaries", "O"), ("Segmentation", "O")])
        content = np.array([[(np.zeros(1), mask_of(name).numpy())]], dtype=kind)
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": content})
    (folder / "train.txt").write_text("s2\nt1\n")
    (folder / "val.txt").write_text("v1\ns1\n")
    return voc


def test_labels_of_sbd_as_published_are_used(sbd):
    require_masks(open_dataset(f"voc2012:{sbd}", split="train"), ["t1", "t2", "s1", "s2"])
    part = open_dataset(f"voc2012:{sbd}", split="train").subset(torch.tensor([3, 0]))
    require_masks(part, ["s2", "t1"])


@pytest.mark.parametrize("content", [b"", b"no matlab", None])
def test_a_damaged_mask_of_sbd_is_named(sbd, content):
    path = sbd / "benchmark_RELEASE/dataset/cls/s1.mat"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(DataError, match=r"s1\.mat is not a mask of SBD"):
        masks_of(open_dataset(f"voc2012:{sbd}", split="train"))


@pytest.mark.parametrize(
    "missing",
    ["JPEGImages/v2.jpg", "SegmentationClass/v1.png", "ImageSets/Segmentation/val.txt"],
)
def test_missing_files_of_voc_are_named(voc, missing):
    path = voc / "VOCdevkit/VOC2012" / missing
    path.unlink()
    with pytest.raises(DataError, match=str(path)) as caught:
        open_dataset(f"voc2012:{voc}")
    assert caught.value.tip


def test_masks_are_numbers_and_as_large_as_their_images(voc):
    path = voc / "VOCdevkit/VOC2012/SegmentationClass/v1.png"
    batches = Batches(open_dataset(f"voc2012:{voc}"), PRESETS["voc2012"], batch_size=1, masks=True)
    Image.fromarray(pixels(10, 10, 3).numpy()).save(path)
    with pytest.raises(DataError, match=r"v1\.png is no mask: its pixels are colours"):
        list(batches)
    Image.fromarray(pixels(5, 10).numpy()).save(path)
    with pytest.raises(DataError, match=r"image 0 of .* has 10 × 10 pixels, but its mask 5 × 10"):
        list(batches)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"v1\.png cannot be read"):
        list(batches)


# ---------------------------------------------------------------- batches


def nearest(mask, height, width):
    """Resize a mask by hand: each pixel takes the number under its centre."""
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return torch.from_numpy(mask.numpy()[rows][:, columns])


def test_images_and_masks_are_stretched_to_one_size(voc):
    prepared = Preprocessing((0.5,) * 3, (0.5,) * 3, resize=24, stretch=True)
    data = open_dataset(f"voc2012:{voc}")
    ((inputs, masks),) = Batches(data, prepared, batch_size=2, masks=True)
    assert inputs.shape == (2, 3, 24, 24)
    assert masks.dtype == torch.int64
    for mask, name in zip(masks, ("v1", "v2"), strict=True):
        assert torch.equal(mask.byte(), nearest(mask_of(name), 24, 24))
    expected = data.image(1).resize((24, 24), Image.Resampling.BILINEAR)
    shown = ((inputs[1] * 0.5 + 0.5) * 255).round().byte().permute(1, 2, 0)
    assert np.array_equal(shown.numpy(), np.asarray(expected))


def test_images_of_many_sizes_go_one_by_one(voc):
    data = open_dataset(f"voc2012:{voc}")
    one_by_one = list(Batches(data, PRESETS["half"], batch_size=1, masks=True))
    assert [tuple(mask.shape[1:]) for _, mask in one_by_one] == [SIZES["v1"], SIZES["v2"]]
    with pytest.raises(DataError, match="different sizes"):
        list(Batches(data, PRESETS["half"], batch_size=2, masks=True))


def test_masks_follow_their_images_through_augmentation():
    """Images that show their own mask still show it, but for the rounding at borders."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.zeros(1, 40, 56, dtype=torch.uint8)
    mask[:, 8:30, 10:25] = 1
    image = (mask * 200).expand(3, -1, -1).contiguous()
    for _ in range(30):
        numbers = torch.rand(4, generator=generator)
        changed = scaled_crop_and_flip(image, numbers, 33)
        answer = scaled_crop_and_flip_mask(mask, numbers, 33)
        assert changed.shape == (3, 33, 33)
        inside = answer != 255
        shown = (changed[:1] > 100).byte()
        assert (shown == answer)[inside].double().mean() > 0.9
        assert not changed[:, ~inside[0]].any()


def test_sides_range_from_half_to_twice_the_crop():
    mask = pixels(1, 50, 50, most=3)
    least = scaled_crop_and_flip_mask(mask, torch.tensor([0.0, 0.0, 0.0, 0.9]), 21)
    assert (least != 255).sum() == 10 * 10
    assert torch.equal(least[0, :10, :10], nearest(mask[0], 10, 10))
    most = scaled_crop_and_flip_mask(mask, torch.tensor([0.99999, 0.0, 0.0, 0.1]), 21)
    assert torch.equal(most[0], nearest(mask[0], 40, 40)[:21, :21].flip(1))


def test_augmented_batches_are_the_generators(voc):
    data = open_dataset(f"voc2012:{voc}", split="train")
    prepared = Preprocessing((0.5,) * 3, (0.5,) * 3, resize=16, stretch=True)

    def run(seed, workers):
        batches = Batches(
            data,
            prepared,
            batch_size=2,
            augmentation=choose_augmentation("auto", prepared, masks=True),
            generator=torch.Generator().manual_seed(seed),
            workers=workers,
            masks=True,
        )
        return next(iter(batches))

    first, again, other = run(0, 0), run(0, 2), run(1, 0)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[1], other[1])
    assert first[0].shape == (2, 3, 16, 16)
    assert first[1].shape == (2, 16, 16)


def test_other_augmentations_do_not_change_masks():
    for name in ("crop-flip", "resized-crop-flip"):
        with pytest.raises(OptionError, match=f"'{name}' does not change masks"):
            Batches(
                masked(),
                PRESETS["half"],
                batch_size=2,
                augmentation=name,
                generator=torch.Generator(),
                masks=True,
            )
    plain = TensorImages("plain", [pixels(2, 3, 4, 4)], None)
    with pytest.raises(TypeError, match="plain has no masks"):
        Batches(plain, PRESETS["half"], batch_size=2, masks=True)


def test_images_with_masks_are_images_without_labels_to_others():
    inputs, labels = next(iter(Batches(masked(), PRESETS["unit"], batch_size=5)))
    assert inputs.shape == (5, 3, 6, 7)
    assert labels.tolist() == [-1] * 5


# ---------------------------------------------------------------- the whole way


@pytest.mark.slow
def test_a_deeplab_is_evaluated_beside_its_compressed_form(run, tmp_path):
    from torchvision.models.segmentation import deeplabv3_resnet50  # noqa: PLC0415

    torch.manual_seed(0)
    network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21)
    torch.save(network.state_dict(), tmp_path / "deeplab.pt")
    masks = pixels(3, 65, 65, most=23)
    masks[masks > 20] = 255
    save_file({"images": pixels(3, 3, 65, 65), "masks": masks}, tmp_path / "data.safetensors")
    data = f"tensors:{tmp_path / 'data.safetensors'}"
    small = tmp_path / "small.pt"
    code, _, err = run("compress", tmp_path / "deeplab.pt", "--ratio", "0.4", "-o", small)
    assert code == 0, err
    given = ("--data", data, "--preprocess", "imagenet-stats", "--no-latency")
    code, out, err = run("evaluate", small, *given, "--baseline", tmp_path / "deeplab.pt", "--json")
    assert code == 0, err
    found = json.loads(out)
    module = alds_cli.load(small).eval()
    stored = load_file(tmp_path / "data.safetensors")
    mean = torch.tensor(PRESETS["imagenet"].mean)[:, None, None]
    std = torch.tensor(PRESETS["imagenet"].std)[:, None, None]
    with torch.no_grad():
        answers = module((stored["images"].float() / 255 - mean) / std)["out"].argmax(1)
    accuracy, iou = by_hand(answers, stored["masks"].long(), 21)
    assert found["mean_iou"] == pytest.approx(iou, abs=0.01)
    assert found["pixel_accuracy"] == pytest.approx(accuracy, abs=0.01)
    assert found["top1"] is None
    assert 0 <= found["comparison"]["agreement"] <= 100
    code, out, err = run("evaluate", small, *given)
    assert code == 0, err
    assert f"{found['mean_iou']:.2f} %" in out


def test_the_table_shows_what_masks_tell(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ownnet.py").write_text(
        "from torch import nn\ndef paint():\n    return nn.Conv2d(3, 5, 1)\n"
    )
    torch.manual_seed(0)
    torch.save(nn.Conv2d(3, 5, 1).state_dict(), tmp_path / "model.pt")
    images, masks = pixels(3, 3, 8, 8), pixels(3, 8, 8, most=5)
    save_file({"images": images, "masks": masks}, tmp_path / "data.safetensors")
    common = ("evaluate", "model.pt", "--arch", "ownnet:paint", "--no-latency")
    given = ("--data", "tensors:data.safetensors", "--preprocess", "half")
    code, out, err = run(*common, *given, "--baseline", "model.pt")
    document = json.loads(run(*common, *given, "--json")[1])
    assert code == 0, err
    assert f"mean IoU {document['mean_iou']:.2f} %" in " ".join(out.split())
    assert "the same answer on 100.00 % of the pixels that have a class" in out
    assert document["top1"] is document["comparison"] is None
