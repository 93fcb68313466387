"""Trained networks on real images: what compression costs, to the image."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from alds_cli import api, architectures
from alds_cli.records import Architecture


@pytest.fixture(scope="module")
def data(shared):
    """The spec of 5,000 CIFAR-10 test images."""
    return f"tensors:{shared / 'data' / 'cifar10' / 'test-dev.safetensors'}"


def weights(shared, depth):
    return shared / "weights" / f"cifar10_resnet{depth}.safetensors"


def top1(model, data):
    return api.evaluate(model, data, latency=False).model.quality.top1


@pytest.mark.slow
def test_accuracy_equals_plain_pytorch_to_the_image(shared, data):
    path = weights(shared, 20)
    network = architectures.build(Architecture("cifar_resnet20"))
    network.load_state_dict(load_file(path))
    file = load_file(data.removeprefix("tensors:"))
    mean = torch.tensor([0.485, 0.456, 0.406])
    std = torch.tensor([0.229, 0.224, 0.225])
    correct = 0
    with torch.inference_mode():
        network.eval()
        for images, labels in zip(
            file["images"].split(256), file["labels"].split(256), strict=True
        ):
            inputs = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
            correct += int((network(inputs).argmax(1) == labels).sum())
    found = api.evaluate(path, data, latency=False).model.quality
    assert found.images == 5000
    assert round(found.top1 * found.images / 100) == correct
    assert found.top1 == pytest.approx(91.92)


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "allowed"), [("0.15", 0.4), ("0.3", 1.5)])
def test_moderate_ratios_cost_little_without_data(shared, data, tmp_path, ratio, allowed):
    path, small = weights(shared, 20), tmp_path / "small.pt"
    report = api.compress(path, ratio=ratio, output=small).report
    assert report.ratio >= float(ratio)
    assert top1(path, data) - top1(small, data) <= allowed


def test_bounds_hold_and_the_exact_solver_is_never_worse(shared):
    for bound in ("density", "sum", "theorem1", "published-code"):
        exact = api.compress(weights(shared, 20), ratio="0.4", bound=bound, dry_run=True).report
        for seed in range(3):
            other = api.compress(
                weights(shared, 20), ratio="0.4", bound=bound, solver="alternating", seed=seed,
                dry_run=True,
            ).report  # fmt: skip
            assert exact.objective <= other.objective
    report = api.compress(weights(shared, 20), ratio="0.4").report
    for layer in report.layers:
        assert layer.error <= layer.error_bound + 1e-6


def test_mobilenet_is_recognised_and_keeps_its_depthwise_layers(shared, tmp_path):
    path = shared / "weights" / "imagenet_mobilenet_v2.safetensors"
    result = api.compress(path, ratio="0.5", output=tmp_path / "small.safetensors")
    assert result.network.architecture == Architecture("mobilenet_v2")
    depthwise = [layer for layer in result.report.layers if layer.shape[1] == 1]
    assert len(depthwise) == 17
    assert {layer.reason for layer in depthwise} == {"no low-rank pair is smaller"}
    loaded = api.load(tmp_path / "small.safetensors")
    inputs = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(inputs), result.network.module(inputs))
