"""Errors on images in networks with attention: what tables say, and what layers lose when run."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny_transformers
import torch
from safetensors.torch import save_file
from torch import nn

from alds_cli import api
from alds_cli.calibration.input_moments import (
    INPUT_MOMENTS,
    OTHER_INDICES,
    gather_input_moments,
    input_tables,
)
from alds_cli.compression.factorise import PairJob
from alds_cli.methods import FactorTask, alds_data
from alds_cli.numerics.fold import multiply_back
from alds_cli.options.model_source import Source
from alds_cli.records import Choice, Preprocessing
from alds_cli.runtime.pool import run_jobs
from alds_cli.surgery import bias_of, find_layers, layer_at, layer_weight
from alds_cli.surgery.layer_contents import own_form
from alds_cli.surgery.replace import call_projections


class Attending(nn.Module):
    """Convolutions of all kinds, an attention to itself, and one to something else."""

    def __init__(self, *, batch_first=True):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, 8, 2, stride=2)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, padding=1, bias=False)
        self.upwards = nn.ConvTranspose2d(8, 12, 2, stride=2)
        self.own = nn.MultiheadAttention(12, 2, batch_first=batch_first)
        self.cross = nn.MultiheadAttention(12, 3, batch_first=batch_first)
        self.head = nn.Linear(12, 4)
        for attention in (self.own, self.cross):
            nn.init.normal_(attention.in_proj_bias)
        self.batch_first = batch_first

    def forward(self, image):
        tokens = self.upwards(self.grouped(torch.relu(self.patches(image)))).flatten(2)
        tokens = tokens.permute((0, 2, 1) if self.batch_first else (2, 0, 1))
        tokens = tokens + self.own(tokens, tokens, tokens, need_weights=False)[0]
        tokens = self.cross(tokens, tokens.tanh(), tokens.tanh())[0]
        return self.head(tokens.mean(1 if self.batch_first else 0))


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    return nn.Sequential(nn.Conv2d(1, 16, 2, stride=2), nn.Flatten(2), Turned(layer))


class Turned(nn.Module):
    def __init__(self, layer):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)

    def forward(self, tokens):
        return self.layers(tokens.mT)


def timm_vit():
    timm = pytest.importorskip("timm")
    return timm.create_model("test_vit", num_classes=10, img_size=64)


def tiny_bert():
    pytest.importorskip("transformers")
    return tiny_transformers.bert_classes()


IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))

KINDS = {
    "attention": (Attending, IMAGES, {"cross.in_proj"}),
    "sequence first": (lambda: Attending(batch_first=False), IMAGES, {"cross.in_proj"}),
    "encoder": (encoder, IMAGES, set()),
    "timm": (timm_vit, IMAGES.repeat(1, 3, 8, 8)[:6], set()),
    "bert": (tiny_bert, (IMAGES.flatten(1)[:, :9] * 98).long(), set()),
}

SLOW = {"timm", "bert"}  # their packages are slow to import

PARAMETERS = [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in KINDS]


def made(kind):
    make, inputs, uncalled = KINDS[kind]
    network = make().double().eval()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    return network, inputs, uncalled


def given_to(network, names, inputs):
    """The inputs of every call of layers."""
    opened = copy.deepcopy(network)
    call_projections(opened, names)
    found = {name: [] for name in names}
    for name in names:
        opened.get_submodule(name).register_forward_hook(
            lambda _, given, __, name=name: found[name].append(given[0])
        )
    with torch.no_grad():
        opened(inputs)
    return found


def energy(layer, weight, calls, *, centred):
    """Mean squared norm of a layer's outputs with another weight and no bias."""
    changed = copy.deepcopy(layer)
    changed.bias = None
    changed.weight = nn.Parameter(own_form(weight, layer))
    axis = -1 if isinstance(layer, (nn.Linear, nn.Embedding)) else -3
    with torch.no_grad():
        outputs = torch.cat([changed(x).movedim(axis, 0).flatten(1) for x in calls], dim=1)
    if centred:
        outputs = outputs - outputs.mean(1, keepdim=True)
    seen = float(outputs.square().sum(0).mean())
    if not isinstance(layer, nn.Embedding):
        return seen
    alike = float(changed.weight.detach().square().sum(1).mean())  # every index counts a little
    return (1 - OTHER_INDICES) * seen + OTHER_INDICES * alike


@pytest.mark.parametrize("kind", PARAMETERS)
def test_every_layer_loses_what_its_table_says(kind):
    network, inputs, uncalled = made(kind)
    specs = {name: spec for name, spec in find_layers(network).items() if spec.reason is None}
    batches = [(part, torch.zeros(len(part))) for part in inputs.split(5)]
    found = gather_input_moments(network, specs, batches)
    assert set(specs) - set(found) == uncalled
    tables = input_tables(found)
    calls = given_to(network, list(found), inputs)
    for name, own in found.items():
        spec, layer, table = specs[name], layer_at(network, name), tables[name]
        weight = layer_weight(layer).detach()
        centred = own.absorber is not None
        whole = energy(layer, weight, calls[name], centred=centred)
        rows = np.flatnonzero(table.choices[:, 1] == 1)
        for row in rows[[0, len(rows) // 2]] if len(rows) else ():
            choice = Choice(*(int(value) for value in table.choices[row]))
            task = FactorTask(
                spec, choice, weight, bias_of(layer), statistics={INPUT_MOMENTS.name: own}
            )
            job = PairJob(task, alds_data.DataFitted(), None)
            run_jobs([job])
            product = multiply_back(
                *job.factors.tensors, tuple(weight.shape), choice.scheme, choice.k, spec.groups
            )
            lost = energy(layer, weight - product, calls[name], centred=centred)
            expected = table.tail_energy[row] / table.energies[0]
            assert lost / whole == pytest.approx(expected, rel=1e-5, abs=1e-9), (name, choice)


def test_attentions_become_pairs_on_images(tmp_path):
    pixels = torch.randint(0, 256, (24, 8, 8, 1), dtype=torch.uint8)
    save_file({"images": pixels, "labels": torch.zeros(24, dtype=torch.int64)}, tmp_path / "d.st")
    network = Attending().eval()
    for method in ("alds-data", "balf", "pca"):
        result = api.compress(
            network,
            ratio="0.3",
            method=method,
            data=f"tensors:{tmp_path / 'd.st'}",
            samples=20,
            source=Source(input_shape=(1, 8, 8)),
            preprocessing=Preprocessing((0.5,), (0.5,)),
        )
        layers = {layer.name: layer for layer in result.report.layers}
        assert "does not call it" in layers["cross.in_proj"].reason
        assert any(layers[f"own.{part}_proj"].choice for part in ("in", "out"))
        assert result.report.verified
