"""The search for the smallest network that loses at most so many points of mean IoU on masks."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from segmenting import (
    CLASSES,
    IMAGES,
    PREPARED,
    SOURCE,
    masked_images,
    masks_for,
    pixels,
    segmenting_network,
    whole,
)
from torch import nn

import alds_cli
from alds_cli.compression.drop_search import EVALUATIONS
from alds_cli.errors import DropUnreachableError, OptionError
from alds_cli.evaluation.segmentation import masked_batches


@pytest.fixture(scope="module")
def network():
    return segmenting_network()


@pytest.fixture(scope="module")
def images(network):
    return masked_images(network)


def compress(network, images, **options):
    usual = {"preprocessing": PREPARED, "source": SOURCE, "cache": False, "method": "alds"}
    return alds_cli.compress(copy.deepcopy(network), data=images, **{**usual, **options})


def iou(answers, masks):
    """The mean IoU in per cent, class by class."""
    counted = masks != 255
    shares = []
    for number in range(CLASSES):
        have, given = (masks == number) & counted, (answers == number) & counted
        if union := int((have | given).sum()):
            shares.append(int((have & given).sum()) / union)
    return 100 * sum(shares) / len(shares)


def test_the_drop_is_that_of_mean_iou(network, images):
    made = compress(network, images, max_drop=25)
    search = made.report.drop
    assert (search.of, search.images, search.allowed) == ("miou", IMAGES, 25)
    assert search.chosen in search.tried
    assert 2 <= len(search.tried) <= EVALUATIONS
    masks = masks_for(network)
    before, after = (iou(whole(own, pixels()), masks) for own in (network, made.network.module))
    assert search.before == pytest.approx(before)
    assert search.chosen.drop == pytest.approx(before - after)
    assert 0 < search.chosen.drop <= 25
    assert search.chosen.low < search.chosen.drop < search.chosen.high
    larger = [point for point in search.tried if point.ratio > search.chosen.ratio]
    assert larger
    assert all(point.drop > 25 for point in larger)
    assert made.report.params_after == search.chosen.params


def test_the_interval_is_that_of_evaluate(network, images):
    made = compress(network, images, max_drop=25)
    compared = alds_cli.evaluate(
        made.network, images, baseline=network, latency=False, preprocessing=PREPARED
    ).comparison
    point = made.report.drop.chosen
    assert compared.difference == pytest.approx(-point.drop)
    assert compared.difference_low == pytest.approx(-point.high)
    assert compared.difference_high == pytest.approx(-point.low)


def test_agreement_is_that_of_the_pixels_that_have_a_class(network, images):
    made = compress(network, images, max_drop=20, drop_of="agreement")
    search = made.report.drop
    masks = masks_for(network)
    answers = [whole(own, pixels()) for own in (network, made.network.module)]
    same = float((answers[0] == answers[1])[masks != 255].double().mean())
    assert (search.of, search.before) == ("agreement", 100)
    assert search.chosen.drop == pytest.approx(100 * (1 - same))


def test_images_that_make_the_network_do_not_measure_it(network, images):
    made = compress(network, images, method="alds-data", max_drop=40, samples=10)
    left = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))[10:].sort().values
    search = made.report.drop
    assert search.images == IMAGES - 10
    masks = masks_for(network)[left]
    before, after = (
        iou(whole(own, pixels()[left]), masks) for own in (network, made.network.module)
    )
    assert search.before == pytest.approx(before)
    assert search.chosen.drop == pytest.approx(before - after)


@pytest.mark.slow
def test_limits_hold_beside_the_drop(network, images):
    made = compress(network, images, max_drop=60, max_params=3000, max_macs=150_000)
    assert made.report.params_after <= 3000
    assert made.report.macs_after <= 150_000
    assert made.report.drop.chosen.drop <= 60


def test_messages_name_mean_iou(network, images):
    with pytest.raises(DropUnreachableError, match=r"loses \d+\.\d\d points of mean IoU, more"):
        compress(network, images, max_drop=1, max_params=800)


@pytest.mark.parametrize(
    ("of", "message"),
    [("top1", "has masks, and no labels"), ("loss", "unknown drop-of 'loss'")],
)
def test_masks_have_no_other_measures(network, images, of, message):
    with pytest.raises(OptionError, match=message):
        compress(network, images, max_drop=5, drop_of=of)


@pytest.mark.parametrize(("crop", "together"), [(None, 1), (8, IMAGES)])
def test_images_of_different_sizes_are_measured_one_by_one(images, monkeypatch, crop, together):
    """Sets of files do not know that their images agree in size."""
    monkeypatch.setattr(images, "size", None)
    prepared = replace(PREPARED, crop=crop)
    batches = masked_batches(images, prepared, most=250, sizes_differ=True)
    assert [len(masks) for _, masks in batches] == [together] * (IMAGES // together)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paintingnet.py").write_text(
        "from torch import nn\n\n\ndef paint():\n    return nn.Sequential(\n"
        "        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1)\n    )\n"
    )
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, CLASSES, 3, padding=1)
    )
    torch.save(made.state_dict(), tmp_path / "model.pt")
    with torch.no_grad():
        masks = made((pixels().float() / 255 - 0.5) / 0.5).argmax(1).to(torch.uint8)
    save_file({"images": pixels(), "masks": masks}, tmp_path / "data.safetensors")
    return tmp_path


@pytest.mark.usefixtures("files")
def test_people_and_programs_are_told(run):
    common = ("compress", "model.pt", "--arch", "paintingnet:paint", "--preprocess", "half")
    given = ("--data", "tensors:data.safetensors", "--method", "alds", "--max-drop", 60)
    code, out, err = run(*common, *given, "-o", "small.pt")
    assert code == 0, err
    assert "mean IoU falls from 100.00 % by" in " ".join(out.split())
    code, out, err = run(*common, *given, "-o", "small.pt", "--json")
    assert code == 0, err
    found = json.loads(out)["drop"]
    assert found["of"] == "miou"
    assert found["chosen"] in found["tried"]
    evaluated = ("evaluate", "small.pt", "--arch", "paintingnet:paint", "--preprocess", "half")
    given = ("--data", "tensors:data.safetensors", "--no-latency", "--baseline", "model.pt")
    code, out, err = run(*evaluated, *given)
    assert code == 0, err
    low, high = found["chosen"]["low"], found["chosen"]["high"]
    told = f"mean IoU lies between {-high:.2f} and {-low:.2f}".replace("-", "−")
    assert told in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--drop-of", "top1"), "has masks, and no labels"),
        (("--max-drop", "5", "--ratio", "0.5"), "a ratio says how small the result is"),
    ],
)
def test_what_cannot_be_had_leaves_no_trace(run, files, arguments, message):
    before = sorted(files.iterdir())
    common = ("compress", "model.pt", "--arch", "paintingnet:paint", "--preprocess", "half")
    given = ("--data", "tensors:data.safetensors", "--max-drop", 5, "-o", "small.pt")
    code, out, err = run(*common, *given, *arguments)
    assert (code, out) == (2, ""), err
    assert message in err
    assert sorted(files.iterdir()) == before


def test_images_without_masks_have_no_mean_iou(run, files):
    stored = load_file(files / "data.safetensors")
    save_file({"images": stored["images"]}, files / "plain.safetensors")
    common = ("compress", "model.pt", "--arch", "paintingnet:paint", "--preprocess", "half")
    given = ("--data", "tensors:plain.safetensors", "--max-drop", 5, "--drop-of", "miou")
    code, out, err = run(*common, *given, "-o", "small.pt")
    assert (code, out) == (2, "")
    assert "has no masks that mean IoU could be measured by" in err
    assert not (files / "small.pt").exists()
