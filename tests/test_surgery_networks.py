"""Whole networks with every layer a pair: size, MACs, loading and multiplying back."""

from __future__ import annotations

import copy
import sys
import types

import pytest
import torch
import torchvision
from decomposing import any_plan, install_random
from torch import nn

from alds_cli import api
from alds_cli.numerics.fold import pair_macs, pair_params
from alds_cli.surgery import dense_state, find_layers, reshape_network
from alds_cli.tracing.trace import count_parameters, trace


class UNet(nn.Module):
    """Down by strides, up by transposed convolutions of several sorts, with a bridge."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=2)
        self.rise = nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1)
        self.up = nn.ConvTranspose2d(32, 16, (4, 2), stride=2, padding=(1, 0), groups=4)
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, image):
        high = self.down(image).relu()
        bridged = torch.cat([high, self.rise(self.deep(high).relu())], 1)
        return self.last(self.up(bridged).relu())


class Reader(nn.Module):
    """A transformer encoder and decoder over rows of numbers."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.decoder = nn.TransformerDecoderLayer(24, 4, 32, batch_first=True, bias=False)
        self.head = nn.Linear(24, 6)

    def forward(self, rows):
        padding = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
        memory = self.encoder(rows, src_key_padding_mask=padding)
        return self.head(self.decoder(rows[:, :3], memory))


def vision_transformer():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=96
    )


def segmentation():
    return torchvision.models.segmentation.fcn_resnet50(weights_backbone=None, aux_loss=True)


NETWORKS = {
    "unet": (UNet, (3, 16, 24)),
    "reader": (Reader, (5, 24)),
    "vision_transformer": (vision_transformer, (3, 32, 32)),
    "resnext50_32x4d": (torchvision.models.resnext50_32x4d, (3, 32, 32)),
    "shufflenet_v2_x0_5": (torchvision.models.shufflenet_v2_x0_5, (3, 32, 32)),
}

ON_META = {
    **NETWORKS,
    "fcn_resnet50": (segmentation, (3, 64, 64)),
    "vit_b_16": (torchvision.models.vit_b_16, (3, 224, 224)),
    "convnext_tiny": (torchvision.models.convnext_tiny, (3, 64, 64)),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, (3, 64, 64)),
    "video": (torchvision.models.video.r2plus1d_18, (3, 8, 32, 32)),
}


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ON_META)
def test_costs_are_those_of_the_formulas(name, seed):
    build, shape = ON_META[name]
    with torch.device("meta"):
        network = build().eval()
    params, before = count_parameters(network), trace(network, shape)
    specs = find_layers(network, before)
    plan = any_plan(specs, seed)
    assert len(plan) > len(specs) / 4
    reshape_network(network, plan)
    macs = before.macs
    for layer, choice in plan.items():
        spec, call = specs[layer], before.calls[layer]
        macs += pair_macs(spec, call.shapes, choice) - call.macs
        size = pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups)
        params += size - spec.weight_params
    assert count_parameters(network) == params
    assert trace(network, shape).macs == macs


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_networks_of_pairs_load_and_multiply_back(name):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    network = build().double().eval()
    dense = copy.deepcopy(network)
    plan = any_plan(find_layers(network, trace(network, shape)), 0)
    for layer, choice in plan.items():
        install_random(network, layer, choice)
    with torch.no_grad():
        for layer in plan:  # random weights of this many layers would grow without bound
            pair = network.get_submodule(layer)
            for half in (pair.first, pair.second):
                half.weight.div_(half.weight[0].numel() ** 0.5)
    inputs = torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = network(inputs)

    with torch.device("meta"):
        fresh = build().double().eval()
    reshape_network(fresh, plan)
    fresh.load_state_dict(network.state_dict(), assign=True)
    dense.load_state_dict(dense_state(dense, network.state_dict(), plan))
    with torch.no_grad():  # as PyTorch's fused kernels want it
        assert torch.equal(fresh(inputs), expected)
        torch.testing.assert_close(dense(inputs), expected, rtol=1e-8, atol=1e-8)


@pytest.fixture(params=["unet", "reader"])
def named_network(request, tmp_path, monkeypatch):
    """(what `--arch` takes, its input) of a network here, as if it were a user's own."""
    monkeypatch.chdir(tmp_path)
    build, shape = NETWORKS[request.param]
    module = types.ModuleType("own_networks_of_this_test")

    def make():
        network = build()
        network.input_shape = shape
        return network

    module.make = make
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return f"{module.__name__}:make", torch.randn(2, *shape)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_artefacts_hold_pairs_of_every_kind_of_layer(named_network, suffix, tmp_path):
    arch, inputs = named_network
    torch.manual_seed(0)
    network = sys.modules[arch.partition(":")[0]].make().eval()
    torch.save(network.state_dict(), "model.pt")
    source = api.Source(arch=arch)
    path = tmp_path / f"small{suffix}"
    result = api.compress("model.pt", source, ratio=0.45, output=path)
    assert result.report.params_after <= 0.55 * result.report.params_before
    assert result.report.max_relative_error <= result.report.max_error_bound + 1e-6
    names = [name for name in result.plan.decomposed if "self_attn" in name or "rise" in name]
    assert names
    loaded = api.load(path, arch=arch)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), result.network.module(inputs))
    # From the artefact on: multiplied back, and the same plan carried out once more.
    again = api.compress(path, source, plan=result.plan)
    with torch.no_grad():
        torch.testing.assert_close(
            again.network.module(inputs), loaded(inputs), rtol=1e-3, atol=1e-4
        )
    assert again.report.params_after == result.report.params_after
    assert api.inspect(path, source).params_before == result.report.params_before


def test_transformers_have_their_attention_decomposed():
    with torch.device("meta"):
        network = torchvision.models.vit_b_16()
    layers = find_layers(network, trace(network, (3, 224, 224)))
    kept = {name for name, spec in layers.items() if spec.reason is not None}
    assert not kept
    packed = layers["encoder.layers.encoder_layer_3.self_attention.in_proj"]
    assert packed.weight_shape == (3 * 768, 768)
    assert sum("self_attention" in name for name in layers) == 24


def test_attention_that_takes_weights_by_itself_is_still_kept():
    with torch.device("meta"):
        network = torchvision.models.swin_t()
    layers = find_layers(network, trace(network, (3, 224, 224)))
    assert "without calling" in layers["features.1.0.attn.qkv"].reason
    assert "without calling" in layers["features.1.0.attn.proj"].reason
