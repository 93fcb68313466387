"""`alds train` from random weights to a file, and the recipes of the package on small images."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from alds_cli import api
from alds_cli.datasets import TensorImages
from alds_cli.errors import OptionError
from alds_cli.recipes import known_recipes, read_recipe
from alds_cli.retraining import RetrainSettings

LINE = ("--arch", "digits_cnn", "--data", "tensors:data.safetensors", "--device", "cpu")
SETTINGS = RetrainSettings(epochs=3, batch_size=16)


@pytest.fixture
def place(digits, tmp_path, monkeypatch):
    """A folder with the data, and nothing else in it."""
    (tmp_path / "data.safetensors").write_bytes((digits / "data.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("place")
def test_a_network_is_trained_and_can_be_compressed(run):
    images = load_file("data.safetensors")
    shade = 25 * images["labels"][:, None, None, None]
    save_file(
        {**images, "images": shade.expand(64, 8, 8, 1).byte().contiguous()}, "easy.safetensors"
    )
    data = ("--arch", "digits_cnn", "--data", "tensors:easy.safetensors", "--device", "cpu")
    more = ("--epochs", 15, "--lr", 0.05, "--batch-size", 16, "--augment", "none")
    code, out, err = run("train", *data, *more, "-o", "o.pt", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["epochs"], found["output"]) == (15, "o.pt")
    assert found["history"][-1]["loss"] < 0.5 * found["history"][0]["loss"]
    code, out, err = run("compress", "o.pt", "--ratio", 0.3, "-o", "small.pt", "--json")
    assert code == 0, err
    code, out, err = run("inspect", "o.pt")
    assert code == 0, err
    assert "digits_cnn" in out
    assert "trained for 15 epochs at lr 0.05" in out


@pytest.mark.usefixtures("place")
def test_the_seed_decides_the_weights():
    def weights(**settings):
        made = api.train(
            "tensors:data.safetensors",
            RetrainSettings(epochs=1, lr=1e-30, momentum=0.0, weight_decay=0.0, **settings),
            "digits_cnn",
            device="cpu",
        )
        return next(made.network.module.parameters())

    before = torch.get_rng_state()
    one = weights()
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert torch.equal(one, weights())
    assert not torch.equal(one, weights(seed=1))


def test_an_interrupted_training_goes_on_to_the_same_bytes(place, run):
    more = (*LINE, "--batch-size", 16, "--epochs", 3)
    code, _, err = run("train", *more, "-o", "whole.pt")
    assert code == 0, err

    def stop(event):
        if event.figures["epoch"] > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.train(
            "tensors:data.safetensors",
            SETTINGS,
            "digits_cnn",
            output="o.pt",
            device="cpu",
            progress=stop,
        )
    code, out, err = run("train", *more, "-o", "o.pt", "--resume", "--json")
    assert code == 0, err
    assert json.loads(out)["resumed_from"] == 1
    assert (place / "o.pt").read_bytes() == (place / "whole.pt").read_bytes()
    assert not (place / "o.pt.training").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--data tensors:data.safetensors", "which network to train is not known"),
        ("--arch resnet_20 --data tensors:data.safetensors", "no network is called 'resnet_20'"),
        ("--arch-arg a=1 --data tensors:data.safetensors", "but no architecture"),
        (
            "--arch digits_cnn --arch-arg kind=1 --data tensors:data.safetensors",
            "digits_cnn.* cannot be built",
        ),
        ("--arch digits_cnn --data tensors:none", "there is no file none"),
        ("--recipe cifar10 --data tensors:data.safetensors", "there is no recipe 'cifar10'"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(place, run, line, message):
    code, out, err = run("train", *line.split(), "-o", "o.pt")
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert [path.name for path in place.iterdir()] == ["data.safetensors"]


def test_the_data_are_not_replaced(place, run):
    before = (place / "data.safetensors").read_bytes()
    code, _, err = run("train", *LINE, "--epochs", 1, "-o", "data.safetensors")
    assert code == 2
    assert "the work begins with that file" in err
    assert (place / "data.safetensors").read_bytes() == before


def test_recipes_name_the_network_and_options_win(run, monkeypatch):
    def begin(*_, **options):
        raise OptionError(
            json.dumps([str(options[key]) for key in ("arch", "arch_args", "settings")])
        )

    monkeypatch.setattr("alds_cli.api.train", begin)

    def asked(line):
        _, _, err = run("train", "--data", "d", "-o", "o.pt", *line.split())
        return json.loads(err[err.index("[") :].splitlines()[0])

    recipe = read_recipe("cifar10-resnet20")
    assert asked("--recipe cifar10-resnet20") == [
        "cifar_resnet20",
        "{}",
        str(recipe.settings("train")),
    ]
    assert asked("--recipe cifar10-resnet20 --arch resnet18 --arch-arg num_classes=10 --lr 1") == [
        "resnet18",
        "('num_classes=10',)",
        str(recipe.settings("train", lr=1.0)),
    ]
    short = asked("--recipe cifar10-resnet20 --epochs 2")
    assert short[2] == str(recipe.settings("train", epochs=2))
    assert "schedule_epochs=None" in short[2]


# ---------------------------------------------------------------- recipes


def images_for(recipe):
    """Six images of the size that the recipe's data have, of two classes."""
    pixels = 32 if recipe.name.startswith("cifar10") else 256
    shades = torch.arange(6, dtype=torch.uint8)[:, None, None, None] * 40
    return TensorImages("six", [shades.expand(6, 3, pixels, pixels)], torch.arange(6) % 2)


CLASSIFYING = [name for name in known_recipes() if not name.startswith("voc") and name != "texts"]


@pytest.mark.parametrize(
    "name",
    [
        name if name == "cifar10-resnet20" else pytest.param(name, marks=pytest.mark.slow)
        for name in CLASSIFYING
    ],
)
def test_each_recipe_trains_and_retrains_its_network(name):
    """Two optimiser steps of a training, and two of a retraining with the last rates of it."""
    recipe = read_recipe(name)
    images, rates = images_for(recipe), []

    def seen(event):
        rates.append(event.figures["lr"])

    trained = api.train(
        images,
        recipe.settings("train", epochs=1, batch_size=3),
        recipe.network,
        device="cpu",
        progress=seen,
    )
    assert len(rates) == 2
    assert trained.history[0].loss > 0
    settings = recipe.settings("retrain", epochs=1, batch_size=3)
    again = api.retrain(trained.network, images, settings, device="cpu", progress=seen)
    assert again.history[0].lr == rates[3]
    mobile = name == "imagenet-mobilenet_v2"
    whole = read_recipe(name).settings("train")
    if whole.schedule == "multistep":
        expected = whole.lr * whole.gamma ** len(whole.milestones)
    else:
        passed = 0 if mobile else (whole.epochs - 1) // whole.decay_every
        expected = (1e-4 if mobile else whole.lr) * whole.gamma**passed
    assert rates[2:] == pytest.approx([expected] * 2)
