"""Steps of every optimiser beside plain PyTorch, and runs taken up again to the bit."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from test_retraining import dataset, network, same, train  # noqa: F401 - a fixture among them
from torch import nn

from alds_cli.datasets import TensorImages
from alds_cli.errors import CheckpointError
from alds_cli.retraining import RetrainSettings, TrainingState

OPTIMISERS = {
    "sgd": (
        {"momentum": 0.8, "weight_decay": 0.01},
        lambda own: torch.optim.SGD(own, lr=1, momentum=0.8, weight_decay=0.01),
    ),
    "plain sgd": (
        {"momentum": 0.0, "weight_decay": 0.0},
        lambda own: torch.optim.SGD(own, lr=1),
    ),
    "rmsprop": (
        {"optimiser": "rmsprop", "momentum": 0.8, "smoothing": 0.9, "weight_decay": 0.01},
        lambda own: torch.optim.RMSprop(own, lr=1, alpha=0.9, momentum=0.8, weight_decay=0.01),
    ),
    "plain rmsprop": (
        {"optimiser": "rmsprop", "momentum": 0.0, "weight_decay": 0.0},
        lambda own: torch.optim.RMSprop(own, lr=1),
    ),
    "adamw": (
        {"optimiser": "adamw", "weight_decay": 0.1},
        lambda own: torch.optim.AdamW(own, lr=1, weight_decay=0.1),
    ),
    "adamw smoothed": (
        {"optimiser": "adamw", "momentum": 0.5, "smoothing": 0.7, "weight_decay": 0.0},
        lambda own: torch.optim.AdamW(own, lr=1, betas=(0.5, 0.7), weight_decay=0.0),
    ),
}

each_optimiser = pytest.mark.parametrize("name", OPTIMISERS)


def settings_of(name, **values):
    return RetrainSettings(
        **{"epochs": 3, "batch_size": 16, "lr": 0.01, **OPTIMISERS[name][0], **values}
    )


def after_steps(make, clip=None):
    """A network after three steps of plain PyTorch with rates 0.02, 0.04 and 0.04."""
    images = torch.arange(4 * 3 * 64).reshape(4, 3, 8, 8).remainder(251).to(torch.uint8)
    module = network(dropout=0).double().train()
    optimiser = make(module.parameters())
    norms = []
    for lr in (0.02, 0.04, 0.04):
        optimiser.param_groups[0]["lr"] = lr
        logits = module(((images / 255 - 0.5) / 0.5).double())
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        norm = torch.stack([own.grad.square().sum() for own in module.parameters()]).sum().sqrt()
        norms.append(norm.item())
        if clip is not None and norm > clip:
            for own in module.parameters():
                own.grad.mul_(clip / norm)
        optimiser.step()
    return images, module, norms


@each_optimiser
def test_steps_are_those_of_plain_pytorch(name):
    images, expected, _ = after_steps(OPTIMISERS[name][1])
    module = network(dropout=0).double()
    settings = settings_of(
        name, batch_size=4, lr=0.04, warmup_epochs=2, milestones=(), augmentation="none"
    )
    train(module, TensorImages("four", [images], torch.arange(4)), settings)
    for a, b in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_gradients_longer_than_the_norm_are_shortened_to_it():
    images, _, norms = after_steps(OPTIMISERS["sgd"][1])
    clip = sorted(norms)[1] * 0.99
    _, expected, _ = after_steps(OPTIMISERS["sgd"][1], clip)
    module = network(dropout=0).double()
    settings = settings_of(
        "sgd",
        batch_size=4,
        lr=0.04,
        warmup_epochs=2,
        milestones=(),
        augmentation="none",
        clip_norm=clip,
    )
    train(module, TensorImages("four", [images], torch.arange(4)), settings)
    for a, b in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@each_optimiser
def test_resuming_gives_the_bits_of_the_uninterrupted_run(dataset, name):  # noqa: F811
    states, whole, resumed = [], network(), network()
    settings = settings_of(name, schedule="cosine", schedule_epochs=5, clip_norm=1.0)
    train(whole, dataset, settings, keep=states.append)
    file = io.BytesIO()
    torch.save(states[1].to_dict(), file)
    file.seek(0)
    state = TrainingState.from_dict(torch.load(file, weights_only=True))
    train(resumed, dataset, settings, resume=state)
    assert same(whole, resumed)


@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: {**entry, "step": torch.ones(2)},
        lambda entry: {**entry, "step": 3},
        lambda entry: {**entry, "step": torch.tensor(math.nan)},
        lambda entry: {key: value for key, value in entry.items() if key != "step"},
        lambda entry: {**entry, "more": torch.ones(())},
        lambda entry: {key: value[:1] if value.ndim else value for key, value in entry.items()},
        lambda entry: {key: value * math.inf for key, value in entry.items()},
        dict.fromkeys,
    ],
)
def test_damaged_states_are_refused_and_change_nothing(dataset, name, damage):  # noqa: F811
    states = []
    settings = settings_of(name, epochs=1)
    train(network(), dataset, settings, keep=states.append)
    kept = states[0].optimiser["state"]
    optimiser = {**states[0].optimiser, "state": {**kept, 0: damage(kept[0])}}
    module = network()
    with pytest.raises(CheckpointError, match="training state"):
        train(module, dataset, settings, resume=replace(states[0], optimiser=optimiser))
    assert same(module, network())
