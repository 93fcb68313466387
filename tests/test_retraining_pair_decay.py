"""Decay of the products of pairs, beside the weights that the pairs stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_retraining import dataset, network, same, train  # noqa: F401 - a fixture among them
from torch import nn

from alds_cli.datasets import PRESETS, Batches
from alds_cli.errors import OptionError
from alds_cli.records import Choice
from alds_cli.retraining import RetrainSettings
from alds_cli.retraining.pair_decay import ProductDecay
from alds_cli.surgery.layer_contents import layer_weight
from alds_cli.surgery.pairs import form_of

CASES = [
    (nn.Conv2d(6, 4, 3), Choice(0, 1, 2)),
    (nn.Conv2d(6, 4, 3), Choice(0, 3, 2)),
    (nn.Conv2d(6, 4, 3), Choice(1, 2, 3)),
    (nn.Conv2d(6, 4, 3), Choice(2, 2, 3)),
    (nn.Conv2d(6, 4, (3, 2)), Choice(3, 2, 2)),
    (nn.Conv2d(12, 8, 3, groups=2), Choice(0, 3, 2)),
    (nn.Conv2d(12, 8, 3, groups=2), Choice(1, 1, 2)),
    (nn.ConvTranspose2d(6, 4, 3), Choice(0, 2, 2)),
    (nn.ConvTranspose2d(6, 4, 3, groups=2), Choice(1, 1, 2)),
    (nn.Conv1d(6, 4, 3), Choice(0, 2, 2)),
    (nn.Conv3d(4, 4, 2), Choice(0, 2, 2)),
    (nn.Linear(6, 5), Choice(0, 1, 3)),
    (nn.Linear(6, 5), Choice(0, 3, 2)),
]


def built(layer, choice):
    torch.manual_seed(0)
    return nn.Sequential(form_of(choice.scheme).build(layer, choice, {"dtype": torch.float64}))


def product(layer, choice, pair):
    halves = pair.first.weight, pair.second.weight
    return form_of(choice.scheme).product(layer, choice, pair, halves, {}, "x")


@pytest.mark.parametrize(("layer", "choice"), CASES)
def test_what_is_decayed_is_the_weight_that_the_pair_stands_for(layer, choice):
    module = built(layer, choice)
    decay = ProductDecay(module, {"0": choice}, 0.3, decoupled=False)
    weight = product(layer, choice, module[0])
    assert weight.shape == layer_weight(layer).shape
    torch.testing.assert_close(decay.energy(), 0.5 * weight.square().sum())
    before = {}
    for half in decay.halves:
        half.grad = before[half] = torch.randn_like(half)
        before[half] = half.grad.clone()
    decay.apply(lr=99.0)
    # A small step along what was added lowers half of the squared norm as its gradient says.
    step = 1e-6
    for half in decay.halves:
        added = (half.grad - before[half]) / 0.3
        start = 0.5 * product(layer, choice, module[0]).square().sum()
        half.data += step * added
        end = 0.5 * product(layer, choice, module[0]).square().sum()
        half.data -= step * added
        assert ((end - start) / step).item() == pytest.approx(added.square().sum().item(), rel=1e-4)


def test_adamw_steps_along_it_by_itself():
    choice = Choice(0, 3, 2)
    module = built(nn.Conv2d(6, 4, 3), choice)
    decay = ProductDecay(module, {"0": choice}, 0.3, decoupled=True)
    gradients = torch.autograd.grad(decay.energy(), decay.halves)
    expected = [
        half.detach() - 0.1 * 0.3 * gradient
        for half, gradient in zip(decay.halves, gradients, strict=True)
    ]
    decay.apply(lr=0.1)
    for half, wanted in zip(decay.halves, expected, strict=True):
        torch.testing.assert_close(half.detach(), wanted)
        assert half.grad is None


def test_clusters_and_what_is_no_pair_are_left_out():
    module = network()
    clustered = Choice(4, 2, 2)
    choices = {"0": Choice(0, 1, 2), "nowhere": Choice(0, 1, 2), "6": clustered}
    decay = ProductDecay(module, choices, 0.3, decoupled=False)
    assert decay.halves == []
    decay.apply(lr=0.1)


def paired():
    module = network(dropout=0)
    torch.manual_seed(1)
    module[0] = form_of(0).build(module[0], Choice(0, 3, 2), {})
    return module


@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop", "adamw"])
def test_only_the_halves_of_pairs_are_decayed_otherwise(dataset, optimiser):  # noqa: F811
    """One step, beside PyTorch with the decay's gradient written out."""
    settings = RetrainSettings(
        epochs=1,
        batch_size=65,
        optimiser=optimiser,
        lr=0.01,
        momentum=0.5,
        weight_decay=0.5,
        pair_decay="product",
        augmentation="none",
    )
    module, plain, none = paired(), paired(), paired()
    choices = {"0": Choice(0, 3, 2)}
    train(module, dataset, settings, pairs=choices)
    halves = [plain[0].first.weight, plain[0].second.weight]
    energy = 0.5 * product(nn.Conv2d(3, 8, 3), choices["0"], plain[0]).square().sum()
    decays = torch.autograd.grad(energy, halves)
    train(none, dataset, replace(settings, weight_decay=0.0))
    inputs = next(iter(Batches(dataset, PRESETS["half"], batch_size=65)))[0]
    loss = nn.functional.cross_entropy(plain.train()(inputs), dataset.labels)
    gradients = torch.autograd.grad(loss, halves)
    for half, mine, without, gradient, decay in zip(
        halves, (module[0].first.weight, module[0].second.weight),
        (none[0].first.weight, none[0].second.weight), gradients, decays, strict=True,
    ):  # fmt: skip
        if optimiser == "sgd":
            expected = half - 0.01 * (gradient + 0.5 * decay)
        elif optimiser == "adamw":
            expected = without - 0.01 * 0.5 * decay
        else:
            whole = gradient + 0.5 * decay
            expected = half - 0.01 * whole / ((0.01 * whole.square()).sqrt() + 1e-8)
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-5)
    others = replace(settings, pair_decay="halves")
    usual = paired()
    train(usual, dataset, others, pairs=choices)
    assert torch.equal(usual[6].weight, module[6].weight)
    assert not torch.equal(usual[0].first.weight, module[0].first.weight)


def test_runs_with_it_are_taken_up_to_the_bit(dataset):  # noqa: F811
    settings = RetrainSettings(epochs=3, batch_size=16, pair_decay="product", weight_decay=0.01)
    choices, states, whole, again = {"0": Choice(0, 3, 2)}, [], paired(), paired()
    train(whole, dataset, settings, pairs=choices, keep=states.append)
    train(again, dataset, settings, pairs=choices, resume=states[0])
    assert same(whole, again)


def test_what_cannot_be_decayed_is_refused():
    with pytest.raises(OptionError, match="pair decay 'both' is none of halves, product"):
        RetrainSettings(epochs=1, pair_decay="both")
