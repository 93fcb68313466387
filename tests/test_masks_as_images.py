"""Images with masks, given to what looks at images only to see what networks answer."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from segmenting import (
    CLASSES,
    IMAGES,
    PREPARED,
    SIDE,
    SOURCE,
    logits,
    masked_images,
    pixels,
    segmenting_network,
)
from torch import nn

import alds_cli
from alds_cli.calibration.fisher_traces import gather_fisher_traces
from alds_cli.datasets import Batches, TensorImages
from alds_cli.datasets.masked_images import MaskedTensors
from alds_cli.errors import NoLogitsError
from alds_cli.evaluation import most_together, pixel_divergences
from alds_cli.records import Preprocessing
from alds_cli.retraining.distillation import divided
from alds_cli.retraining.tuned_steps import Recipe
from alds_cli.surgery import find_layers

SAMPLES = 20


@pytest.fixture(scope="module")
def network():
    return segmenting_network(decay=0.8)


@pytest.fixture(scope="module")
def images(network):
    return masked_images(network)


def compress(network, images, ratio=0.5, **options):
    usual = {"preprocessing": PREPARED, "source": SOURCE, "cache": False, "samples": SAMPLES}
    return alds_cli.compress(
        copy.deepcopy(network), ratio=ratio, data=images, **{**usual, **options}
    )


def apart(original, module, images):
    """The mean over images and pixels of KL(original ‖ network), and the agreement in per cent."""
    first, second = (logits(own, images).double().log_softmax(1) for own in (original, module))
    divergence = float((first.exp() * (first - second)).sum(1).mean())
    return divergence, 100 * float((first.argmax(1) == second.argmax(1)).double().mean())


def judging():
    """The images of the sample that no method sees: a tenth of it."""
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    return pixels()[order[SAMPLES - SAMPLES // 10 : SAMPLES]]


def test_methods_are_compared_pixel_by_pixel(network, images):
    made = compress(network, images)
    found = {own.method: own for own in made.report.compared}
    assert set(found) == {"alds-fisher", "alds-data", "alds"}
    for name, own in found.items():
        alone = compress(network, images, method=name, samples=SAMPLES - SAMPLES // 10)
        divergence, agreement = apart(network, alone.network.module, judging())
        assert own.divergence == pytest.approx(divergence, rel=1e-4)
        assert own.agreement == pytest.approx(agreement)
        assert own.images == SAMPLES // 10
    assert made.report.method in found
    assert min(own.divergence for own in found.values()) > 0


def test_pairs_fitted_again_are_judged_pixel_by_pixel(network, images):
    made = compress(network, images, method="alds", ratio=0.7, refit=True)
    plain = compress(network, images, method="alds", ratio=0.7)
    refit = made.report.refit
    before = apart(network, plain.network.module, judging())
    assert (refit.divergence_before, refit.agreement_before) == pytest.approx(before, rel=1e-4)
    assert refit.kept
    after = apart(network, made.network.module, judging())
    assert (refit.divergence_after, refit.agreement_after) == pytest.approx(after, rel=1e-4)
    assert refit.divergence_after < refit.divergence_before


def test_tuning_moves_the_answers_of_pixels_towards_the_original(network, images):
    made = compress(network, images, method="alds", ratio=0.7, tune_steps=60)
    plain = compress(network, images, method="alds", ratio=0.7)
    tuning = made.report.tuning
    assert 0 < tuning.best_step <= tuning.steps == 60
    assert tuning.loss_after < tuning.loss_before
    drawn = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))[:SAMPLES].sort()[0]
    held, _ = divided(SAMPLES, Recipe(), 0)
    judges = pixels()[drawn[held]]
    for module, agreement in (
        (plain.network.module, tuning.agreement_before),
        (made.network.module, tuning.agreement_after),
    ):
        assert agreement == pytest.approx(apart(network, module, judges)[1])


@pytest.mark.slow
def test_what_masks_say_changes_nothing(network, images):
    other = MaskedTensors("drawn", [pixels()], [torch.full((IMAGES, SIDE, SIDE), 255).byte()])
    options = {"refit": True, "tune_steps": 2}
    first, second = (
        compress(network, own, **options).network.module.state_dict() for own in (images, other)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", ["alds-fisher", "balf", "pca", "pfp"])
def test_every_method_that_looks_at_images_takes_those_with_masks(network, images, method):
    made = compress(network, images, method=method)
    assert logits(made.network.module, pixels()).isfinite().all()
    assert made.report.params_after <= 0.5 * made.report.params_before


class Classifying(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU())
        self.head = nn.Linear(12 * 36, 5)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


@pytest.mark.slow
def test_to_a_network_that_classifies_they_are_images_without_labels(images):
    plain = TensorImages("drawn", [pixels()], None)
    made = [
        compress(Classifying(), own, refit=True, tune_steps=3, ratio=0.4) for own in (images, plain)
    ]
    first, second = (own.network.module.state_dict() for own in made)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert made[0].report.compared == made[1].report.compared
    found = compress(Classifying(), images, ratio=None, max_drop=60, method="alds").report.drop
    assert (found.of, found.before) == ("agreement", 100)
    with pytest.raises(NoLogitsError, match=r"not logits of shape \(24, classes, 10, 10\)"):
        compress(Classifying(), images, ratio=None, max_drop=60, method="alds", drop_of="miou")


def test_without_masks_outputs_for_pixels_are_no_logits(network):
    """They may as well be colours."""
    plain = TensorImages("drawn", [pixels()], None)
    for options in ({}, {"method": "alds", "refit": True}, {"method": "alds", "tune_steps": 1}):
        with pytest.raises(NoLogitsError, match="gives a dict of 'out'") as caught:
            compress(network, plain, **options)
        assert "images with masks" in caught.value.tip


def test_fishers_trace_is_the_sum_over_the_pixels(network):
    """One image many times: the mean over the draws is near the expectation, class by class."""
    one = pixels()[:1]
    masks = torch.zeros(256, SIDE, SIDE, dtype=torch.uint8)
    batches = Batches(
        MaskedTensors("one", [one.expand(256, -1, -1, -1)], [masks]), PREPARED, batch_size=32
    )
    specs = find_layers(network)
    found = gather_fisher_traces(network, specs, batches)
    inputs = (one.float() / 255 - 0.5) / 0.5
    hidden = network.body[:5](inputs).detach().requires_grad_()
    logs = network.head(network.body[5:](hidden)).double().log_softmax(1)
    expected = 0.0
    for y, x in torch.cartesian_prod(torch.arange(SIDE // 2), torch.arange(SIDE // 2)).tolist():
        for number in range(CLASSES):
            (gradient,) = torch.autograd.grad(logs[0, number, y, x], hidden, retain_graph=True)
            chance = float(logs[0, number, y, x].detach().exp())
            expected += chance * float(gradient.square().sum())
    assert found["body.4"].gradients == pytest.approx(expected / 16, rel=0.1)


def test_answers_that_are_not_finite_are_infinitely_far(network):
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.head.bias[0] = torch.nan
    batches = Batches(masked_images(network), PREPARED, batch_size=7)
    each, agreement = pixel_divergences(network, broken, batches, device=torch.device("cpu"))
    assert each.shape == (IMAGES,)
    assert each.isinf().all()
    assert agreement == 0


@pytest.mark.parametrize(("side", "most"), [(64, 250), (513, 7), (2048, 1)])
def test_batches_of_masks_have_no_more_pixels_than_fit(side, most):
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    masks = torch.zeros(1, 4, 4, dtype=torch.uint8)
    images = MaskedTensors("one", [image], [masks])
    prepared = Preprocessing((0.5,) * 3, (0.5,) * 3, resize=side, stretch=True)
    assert most_together(images, prepared, 250) == most


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A checkpoint of a network of the user's own code, and masks of what it answers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maskednet.py").write_text(
        "from torch import nn\n\n\ndef paint():\n    return nn.Sequential(\n"
        "        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1)\n    )\n"
    )
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))
    torch.save(made.state_dict(), "model.pt")
    with torch.no_grad():
        masks = made((pixels().float() / 255 - 0.5) / 0.5).argmax(1).byte()
    save_file({"images": pixels(), "masks": masks}, "data.safetensors")
    return tmp_path


GIVEN = ("model.pt", "--arch", "maskednet:paint", "--data", "tensors:data.safetensors")


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_iterating_looks_at_masks_and_at_code_of_ones_own(run):
    asked = ("--preprocess", "half", "--to", 0.4, "--steps", 2, "--epochs-per-step", 1)
    code, out, err = run("iterate", *GIVEN, *asked, "--lr", 0.001, "-o", "small.pt", "--json")
    assert code == 0, err
    assert [len(own["history"]) for own in json.loads(out)["stages"]] == [1, 1]
    code, out, err = run("iterate", *GIVEN, *asked, "--lr", 0.001, "-o", "small.pt", "--resume")
    assert code == 0, err


def test_sweeps_refuse_masks(run, files):
    before = {own.name for own in files.iterdir()}
    asked = ("--preprocess", "half", "--methods", "alds", "--ratios", "0.3", "-o", "runs")
    code, out, err = run("sweep", *GIVEN, *asked)
    assert (code, out) == (2, "")
    assert "has masks, and sweeps measure the accuracy of whole images" in err
    # The network's own code was imported, and may have been compiled.
    assert {own.name for own in files.iterdir()} - {"__pycache__"} == before


@pytest.mark.slow
def test_a_deeplab_is_compressed_with_masks(run, tmp_path, monkeypatch):
    """Every part of `compress` that looks at images, with torchvision's network."""
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large  # noqa: PLC0415

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    )
    generator = torch.Generator().manual_seed(1)
    rough = torch.randint(0, 256, (12, 3, 9, 9), generator=generator).float()
    images = nn.functional.interpolate(rough, (49, 49), mode="bilinear").byte()
    inputs = (images.float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        for _ in range(20):  # statistics of its own activations, so that answers differ
            network.train()(inputs)
        masks = network.eval()(inputs)["out"].argmax(1).byte()
    assert len(masks.unique()) > 1
    torch.save(network.state_dict(), "deeplab.pt")
    save_file({"images": images, "masks": masks}, "data.safetensors")
    given = (
        "compress", "deeplab.pt", "--input-shape", "3,49,49", "--data", "tensors:data.safetensors",
        "--preprocess", "half",
    )  # fmt: skip
    asked = ("--ratio", 0.3, "--refit", "--tune-steps", 2, "-o", "small.pt", "--json")
    code, out, err = run(*given, *asked)
    assert code == 0, err
    found = json.loads(out)
    assert [own["method"] for own in found["compared"]] == ["alds-fisher", "alds-data", "alds"]
    assert found["tuning"]["steps"] == 2
    code, out, err = run(
        "evaluate", "small.pt", "--data", "tensors:data.safetensors", "--preprocess", "half",
        "--no-latency", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert 0 <= json.loads(out)["mean_iou"] <= 100
