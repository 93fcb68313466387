"""Training of networks that segment, on images with a class for every pixel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alds_cli import api
from alds_cli.datasets import PRESETS
from alds_cli.datasets.masked_images import MaskedTensors
from alds_cli.errors import DataError, OptionError
from alds_cli.recipes import read_recipe
from alds_cli.records import Preprocessing
from alds_cli.retraining import RetrainSettings, learning_rate, retrain
from alds_cli.retraining.objective import MixedBatch, Objective

SETTINGS = RetrainSettings(epochs=3, batch_size=8, lr=0.05, augmentation="none")


def network(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, classes, 3, stride=2, padding=1),
    )


@pytest.fixture(scope="module")
def images():
    """Bright pixels are of class 2, dark ones of class 0; some have no class."""
    generator = torch.Generator().manual_seed(0)
    bright = torch.rand(24, 4, 4, generator=generator) > 0.5
    bright = bright.repeat_interleave(3, 1).repeat_interleave(3, 2)
    pixels = (bright * 200).to(torch.uint8)[:, None].expand(24, 3, 12, 12).contiguous()
    masks = (bright * 2).to(torch.uint8)
    masks[:, :2] = 255
    return MaskedTensors("shades", [pixels], [masks])


def train(module, images, settings=SETTINGS, **options):
    return retrain(module, images, settings, preprocessing=PRESETS["half"], **options)


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    masks = torch.randint(3, (4, 5, 6), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.3] = 255
    return logits, masks


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_pixels_that_have_a_class(share, smoothing):
    logits, masks = drawn()
    batch = MixedBatch(torch.zeros(4, 1), masks, share)
    settings = replace(SETTINGS, label_smoothing=smoothing)
    loss, right = Objective(settings, None, labelled=True)(logits, batch)

    def mean_over(found):
        logs = logits.log_softmax(1)
        losses = []
        for n, y, x in (found != 255).nonzero().tolist():
            target = torch.full((3,), smoothing / 3, dtype=torch.float64)
            target[found[n, y, x]] += 1 - smoothing
            losses.append(-(target * logs[n, :, y, x]).sum())
        return torch.stack(losses).mean()

    expected = share * mean_over(masks) + (1 - share) * mean_over(masks.roll(1, 0))
    assert loss.item() == pytest.approx(expected.item())
    for n in range(4):
        counted = masks[n] != 255
        hits = (logits[n].argmax(0) == masks[n])[counted].sum()
        assert right[n].item() == pytest.approx(hits.item())


def test_a_batch_without_any_class_has_no_loss():
    logits, masks = drawn()
    batch = MixedBatch(torch.zeros(4, 1), torch.full_like(masks, 255), 1.0)
    loss, right = Objective(SETTINGS, None, labelled=True)(logits.requires_grad_(), batch)
    assert loss.item() == 0
    assert right.tolist() == [0] * 4


def test_the_distance_from_a_teacher_is_the_mean_over_pixels():
    logits, masks = drawn()
    inputs, _ = drawn(1)
    teacher = nn.Identity()
    teacher.register_parameter("own", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    batch = MixedBatch(inputs, masks, 1.0)
    loss, _ = Objective(replace(SETTINGS, temperature=3.0), teacher, labelled=True)(logits, batch)
    theirs, ours = (inputs / 3).softmax(1), (logits / 3).softmax(1)
    expected = 9 * (theirs * (theirs / ours).log()).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item())


def test_a_network_learns_to_segment(images):
    module = network()
    result = train(module, images, replace(SETTINGS, epochs=15, lr=0.2))
    assert result.history[-1].loss < 0.3 * result.history[0].loss
    assert result.history[-1].accuracy > 85
    inputs = images.batch(torch.arange(24)) / 255 * 2 - 1
    with torch.no_grad():
        logits = F.interpolate(module.eval()(inputs), (12, 12), mode="bilinear")
    assert set(logits.argmax(1).unique().tolist()) == {0, 2}


EVERYTHING = {
    "plain": {},
    "augmented": {"augmentation": "scaled-crop-flip"},
    "all": {"augmentation": "auto", "mixup": 0.5, "ema": 0.8, "held_back": 0.25},
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_resuming_gives_the_bits_of_the_uninterrupted_run(images, name):
    settings, states = replace(SETTINGS, **EVERYTHING[name]), []
    whole, again = network(), network()
    result = train(whole, images, settings, keep=states.append)
    later = train(again, images, settings, resume=states[0])
    assert same(whole, again)
    assert later.kept == result.kept
    if settings.held_back:
        assert all(0 <= own.validation_accuracy <= 100 for own in result.history)


def test_other_masks_do_not_continue_a_run(images):
    states = []
    train(network(), images, keep=states.append)
    masks = torch.stack([images.mask(index) for index in range(24)])
    pixels = images.batch(torch.arange(24))
    other = MaskedTensors("shades", [pixels], [masks.roll(1, 0)])
    with pytest.raises(OptionError, match="started with other"):
        train(network(), other, resume=states[0])
    train(network(), MaskedTensors("elsewhere", [pixels], [masks]), resume=states[0])


@pytest.mark.parametrize(
    ("module", "settings", "error", "message"),
    [
        (network(2), SETTINGS, DataError, "a mask has the class 2, outside the network's 2"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(432, 3)),
            SETTINGS,
            DataError,
            "only networks that segment images can be retrained",
        ),
        (network(), replace(SETTINGS, cutmix=1.0), OptionError, "cannot be pasted"),
        (network(), replace(SETTINGS, augmentation="crop-flip"), OptionError, "'crop-flip'"),
    ],
)
def test_what_does_not_go_together_is_refused(images, module, settings, error, message):
    with pytest.raises(error) as caught:
        train(module, images, settings)
    assert message in f"{caught.value.message} {caught.value.tip}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*align_corners")
def test_the_recipe_trains_and_retrains_a_deeplab(tmp_path):
    """Two optimiser steps from random weights, and two of the compressed network."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 65, 65), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 21, (4, 65, 65), dtype=torch.uint8, generator=generator)
    masks[:, :20] = 255
    images = MaskedTensors("four", [pixels], [masks])
    recipe, rates = read_recipe("voc-deeplabv3_resnet50"), []
    plain = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    usual = {"device": "cpu", "preprocessing": plain}

    def seen(event):
        rates.append(event.figures["lr"])

    whole = recipe.settings("train")
    short = recipe.settings("train", epochs=1, batch_size=2)
    trained = api.train(images, short, recipe.network, progress=seen, **usual)
    assert rates == pytest.approx([0.02, 0.02 * 0.5**0.9])
    source = api.Source(input_shape=(3, 65, 65))
    small = api.compress(trained.network, source, ratio=0.4, output=tmp_path / "small.pt")
    settings = recipe.settings("retrain", epochs=1, batch_size=2)
    again = api.retrain(small.network, images, settings, progress=seen, **usual)
    expected = [learning_rate(whole, 44 * 2 + step, 2) for step in range(2)]
    assert rates[2:] == pytest.approx(expected)
    assert again.history[0].loss > 0
    assert again.network.plan.decomposed
