"""The built-in networks: sizes, published checkpoints, tracing and export."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from alds_cli.architectures import (
    build,
    default_preprocessing,
    input_shape,
    recognise,
)
from alds_cli.architectures.zoo import ZOO
from alds_cli.architectures.zoo.resnet import PaddedShortcut
from alds_cli.records import Architecture

PARAMETERS = {
    "cifar_resnet20": 269_722,
    "cifar_resnet32": 464_154,
    "cifar_resnet44": 658_586,
    "cifar_resnet56": 853_018,
    "cifar_resnet110": 1_727_962,
    "cifar_vgg16_bn": 14_990_922,
    "cifar_densenet22": 290_986,
    "cifar_wrn16_8": 10_961_370,
    "digits_cnn": 82_282,
}

# The deeper ResNets are the same code with more blocks.
ONE_PER_FAMILY = [name for name in ZOO if "resnet" not in name or name == "cifar_resnet20"]


def shared(path: str) -> Path:
    """A file of the data that lies outside the repository; skips where it is absent."""
    root = Path(__file__).resolve().parents[1]
    places = [root.parent / "shared", root / "shared"]
    if "ALDS_SHARED" in os.environ:
        places.insert(0, Path(os.environ["ALDS_SHARED"]))
    for place in places:
        if (place / path).exists():
            return place / path
    pytest.skip(f"{path} is in none of {', '.join(map(str, places))} (set ALDS_SHARED)")


def test_every_network_is_counted_here():
    assert PARAMETERS.keys() == ZOO.keys()


@pytest.mark.parametrize("name", ZOO)
def test_has_the_published_number_of_parameters(name):
    network = build(Architecture(name), device="meta")
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize(("classes", "channels"), [(1, 1), (100, 4)])
def test_gives_one_score_per_class(name, classes, channels):
    architecture = Architecture(name, {"num_classes": classes, "in_channels": channels})
    network = build(architecture).eval()
    shape = input_shape(architecture)
    assert shape[0] == channels
    with torch.no_grad():
        scores = network(torch.randn(2, *shape))
    assert scores.shape == (2, classes)
    assert torch.isfinite(scores).all()


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_can_be_traced_and_exported(name):
    network = build(Architecture(name)).eval()
    sample = torch.randn(2, *input_shape(Architecture(name)))
    with torch.no_grad():
        expected = network(sample)
        torch.testing.assert_close(torch.fx.symbolic_trace(network)(sample), expected)
        exported = torch.export.export(network, (sample,)).module()
        torch.testing.assert_close(exported(sample), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_gradients_reach_every_parameter(name):
    network = build(Architecture(name)).train()
    network(torch.randn(2, *input_shape(Architecture(name)))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_seed_fixes_the_initialisation():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = build(Architecture("cifar_resnet20")).state_dict()
        torch.manual_seed(3)
        second = build(Architecture("cifar_resnet20")).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_padded_shortcut_keeps_even_pixels_and_centres_the_channels():
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).reshape(1, 2, 4, 4)
    y = PaddedShortcut(1)(x)
    assert y.shape == (1, 4, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3]].any()


def test_networks_survive_pickling():
    network = build(Architecture("cifar_densenet22"))
    copied = pickle.loads(pickle.dumps(network))
    assert isinstance(copied, nn.Module)
    assert copied.state_dict().keys() == network.state_dict().keys()


def top1(name: str) -> float:
    """Accuracy in per cent of a published CIFAR-10 checkpoint on the development images."""
    weights = load_file(shared(f"weights/{name.replace('cifar', 'cifar10', 1)}.safetensors"))
    architecture = recognise({key: tuple(tensor.shape) for key, tensor in weights.items()})
    assert architecture == Architecture(name)
    network = build(architecture).eval()
    network.load_state_dict(weights, strict=True)
    data = load_file(shared("data/cifar10/test-dev.safetensors"))
    images, labels = data["images"], data["labels"]
    preprocessing = default_preprocessing(architecture)
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    inputs = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        predicted = torch.cat([network(batch).argmax(1) for batch in inputs.split(500)])
    return 100 * int((predicted == labels).sum()) / len(labels)


@pytest.mark.slow
def test_published_resnet20_reaches_its_accuracy():
    assert top1("cifar_resnet20") == 91.92


@pytest.mark.slow
def test_published_resnet56_reaches_its_accuracy():
    assert top1("cifar_resnet56") == 93.70


@pytest.mark.slow
def test_digits_network_learns_its_digits_in_seconds():
    datasets = pytest.importorskip("sklearn.datasets", reason="the extra 'demo' is not installed")
    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images).float().div(16).sub(0.5).div(0.5).unsqueeze(1)
    labels = torch.from_numpy(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        order = torch.randperm(len(labels))
        train, test = order[:1400], order[1400:]
        network = build(Architecture("digits_cnn")).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
        for _ in range(12):
            for batch in train[torch.randperm(len(train))].split(64):
                loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.no_grad():
        correct = network.eval()(images[test]).argmax(1) == labels[test]
    assert correct.float().mean() > 0.97
