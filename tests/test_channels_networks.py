"""Filters removed from whole architectures: the rest computes what it did, and is counted."""

from __future__ import annotations

import pytest
import torch
import torchvision
from pruned_networks import (
    any_removal,
    assert_same,
    outputs,
    pruned_copy,
    scramble,
    with_zero_columns,
    with_zero_filters,
)
from recounting import recounted_macs
from torch import nn

from alds_cli.architectures import build
from alds_cli.compression.filter_pruning import prunable_channels
from alds_cli.compression.filter_removal import pruning_reports
from alds_cli.compression.targets import multiply_accumulates, parameters, pruned_amount
from alds_cli.records import Architecture, Plan
from alds_cli.surgery import find_layers
from alds_cli.surgery.channels.find import find_channels
from alds_cli.tracing.trace import trace


def zoo(name):
    return lambda: build(Architecture(name))


def transformer():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48
    )


def googlenet():
    return torchvision.models.googlenet(init_weights=False, aux_logits=False)


def inception():
    return torchvision.models.inception_v3(init_weights=False)


models = torchvision.models

NETWORKS = {  # the share of filters of their own that must be removable, at least
    "cifar_resnet20": (zoo("cifar_resnet20"), (3, 32, 32), 0.7),
    "cifar_vgg16_bn": (zoo("cifar_vgg16_bn"), (3, 32, 32), 0.99),
    "cifar_densenet22": (zoo("cifar_densenet22"), (3, 32, 32), 0.98),
    "digits_cnn": (zoo("digits_cnn"), (1, 8, 8), 0.95),
    "resnet18": (models.resnet18, (3, 32, 32), 0.8),
    "mobilenet_v2": (models.mobilenet_v2, (3, 32, 32), 0.9),
    "mobilenet_v3_small": (models.mobilenet_v3_small, (3, 32, 32), 0.85),
    "squeezenet1_1": (models.squeezenet1_1, (3, 32, 32), 0.7),
    "shufflenet_v2_x0_5": (models.shufflenet_v2_x0_5, (3, 32, 32), 0.4),
    "transformer": (transformer, (3, 32, 32), 0.05),
}

SLOW_NETWORKS = {
    "cifar_resnet56": (zoo("cifar_resnet56"), (3, 32, 32), 0.7),
    "cifar_wrn16_8": (zoo("cifar_wrn16_8"), (3, 32, 32), 0.99),
    "resnet50": (models.resnet50, (3, 64, 64), 0.95),
    "resnext50_32x4d": (models.resnext50_32x4d, (3, 64, 64), 0.6),
    "efficientnet_b0": (models.efficientnet_b0, (3, 64, 64), 0.9),
    "densenet121": (models.densenet121, (3, 64, 64), 0.9),
    "googlenet": (googlenet, (3, 64, 64), 0.85),
    "inception_v3": (inception, (3, 299, 299), 0.85),
    "regnet_x_400mf": (models.regnet_x_400mf, (3, 64, 64), 0.4),
    "regnet_y_400mf": (models.regnet_y_400mf, (3, 64, 64), 0.3),
    "mnasnet0_5": (models.mnasnet0_5, (3, 64, 64), 0.85),
    "convnext_tiny": (models.convnext_tiny, (3, 64, 64), 0.5),
    "vgg11": (models.vgg11, (3, 64, 64), 0.9),
    "alexnet": (models.alexnet, (3, 224, 224), 0.9),
    "vit_b_16": (models.vit_b_16, (3, 224, 224), 0.5),
    "swin_t": (models.swin_t, (3, 64, 64), 0.5),
}


def macs(network, shape):
    return recounted_macs(network, torch.zeros(1, *shape, dtype=torch.float64))


def check(build_network, shape, removable):
    network = scramble(build_network())
    before = trace(network, shape)
    specs = find_layers(network, before)
    channels = prunable_channels(network, shape, specs)
    dense = [m for m in channels.members.values() if m.role == "dense"]
    mobile = sum(indices.size for group in channels.groups for indices in group.outputs.values())
    assert mobile >= removable * sum(member.outputs for member in dense)

    pruned = channels.without(any_removal(channels))
    small = pruned_copy(network, pruned)
    images = torch.randn(2, *shape, dtype=torch.float64)
    found = outputs(small, images)
    zeroed = with_zero_columns(network, pruned)
    assert_same(found, outputs(zeroed, images))
    # Once nobody takes what they make, it does not matter what the filters are.
    assert_same(found, outputs(with_zero_filters(zeroed, pruned), images))

    params = sum(p.numel() for p in network.parameters())
    left = sum(p.numel() for p in small.parameters())
    assert left < params
    open_layers = {name: spec for name, spec in specs.items() if spec.reason is None}
    resource = parameters(open_layers, params)
    assert pruned_amount(channels, resource, before.calls, pruned) == left
    resource = multiply_accumulates(open_layers, before.macs, before.calls)
    assert pruned_amount(channels, resource, before.calls, pruned) == macs(small, shape)
    reports = pruning_reports(channels, specs, Plan({}, pruned=pruned))
    assert sum(r.params_before - r.params_after for r in reports) == params - left
    for report in reports:  # each layer's own count, too
        module = small.get_submodule(report.name) if report.kept else None
        if module is not None:
            assert report.params_after == sum(p.numel() for p in module.parameters())


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("name", NETWORKS)
def test_architectures_lose_filters_for_good(name):
    check(*NETWORKS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_NETWORKS)
def test_larger_architectures_lose_filters_for_good(name):
    check(*SLOW_NETWORKS[name])


def test_residual_stages_of_resnet20_share_their_first_channels():
    channels = find_channels(build(Architecture("cifar_resnet20")), (3, 32, 32))
    stream, *blocks = channels.groups
    assert stream.size == 16
    assert sorted(stream.outputs) == sorted(
        ["conv1", *(f"layer{stage}.{block}.conv2" for stage in (1, 2, 3) for block in range(3))]
    )
    # Padded with 8 channels on either side, and with 16 more.
    assert stream.outputs["layer2.0.conv2"].ravel().tolist() == list(range(8, 24))
    assert stream.inputs["linear"].ravel().tolist() == list(range(24, 40))
    assert [group.name for group in blocks] == [
        f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)
    ]


def test_mlps_of_transformers_and_nothing_else():
    channels = find_channels(transformer(), (3, 32, 32))
    assert [sorted(group.outputs) for group in channels.groups] == [
        [f"encoder.layers.encoder_layer_{index}.mlp.0"] for index in range(2)
    ]


def test_heads_for_training_follow():
    network = torchvision.models.googlenet(init_weights=False, aux_logits=True)
    channels = find_channels(network, (3, 224, 224))
    taken = {name for group in channels.groups for name in group.inputs}
    assert {"aux1.conv.conv", "aux2.conv.conv"} <= taken
    pruned = channels.without(any_removal(channels))
    small = pruned_copy(network, pruned).train()
    assert small(torch.zeros(2, 3, 64, 64)).aux_logits1.shape == (2, 1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet10t", "mobilenetv3_small_050", "ghostnet_050", "efficientnet_lite0", "convnext_atto"],
)
def test_networks_by_timm(name):
    timm = pytest.importorskip("timm")
    network = scramble(timm.create_model(name, num_classes=7))
    channels = find_channels(network, (3, 64, 64))
    pruned = channels.without(any_removal(channels))
    assert len(pruned) > 10
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = outputs(with_zero_columns(network, pruned), images)
    assert_same(outputs(pruned_copy(network, pruned), images), expected)


def test_every_layer_keeps_a_channel():
    network = scramble(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)))
    channels = find_channels(network, (3, 8, 8))
    (group,) = channels.groups
    assert channels.without({group.name: torch.arange(1, 5).numpy()})["0"].outputs == (0,)
