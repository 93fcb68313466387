"""Moments of input patches, against patches that are read off the layer itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import digits_network
from torch import nn

from alds_cli.calibration import moment_sums
from alds_cli.calibration.input_moments import NOT_OBSERVED, gather_input_moments, input_tables
from alds_cli.calibration.statistic import keep_unobserved
from alds_cli.errors import DataError
from alds_cli.surgery import find_layers, layer_weight
from alds_cli.surgery.layer_contents import own_form

DOUBLE = torch.float64

LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "tokens": (lambda: nn.Linear(5, 4, bias=False), (3, 5)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=2, dilation=2), (2, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(1, 0)), (3, 5, 6)),
    "conv2d without bias": (lambda: nn.Conv2d(3, 4, 3, bias=False), (3, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 2, 4)),
    "same": (lambda: nn.Conv2d(2, 3, (3, 2), padding="same", dilation=2), (2, 5, 6)),
    "valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid"), (2, 4, 5)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 4)),
    "reflect": (lambda: nn.Conv1d(2, 3, 3, padding=2, padding_mode="reflect"), (2, 6)),
    "replicate": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 4, 4)),
    "grouped": (lambda: nn.Conv2d(6, 9, (1, 3), groups=3, padding=(0, 1), bias=False), (6, 3, 5)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 4, 4)),
    "transposed": (
        lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1, dilation=2),
        (3, 4, 3),
    ),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=3, groups=2, bias=False), (4, 5)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2, padding=1), (2, 3, 3, 3)),
}


def alone(kind, seed=0, count=20):
    """A network of one layer, its specification, and inputs that are not centred."""
    torch.manual_seed(seed)
    make, shape = LAYERS[kind]
    network = nn.Sequential()
    network.add_module("layer", make())
    network = network.double().eval()
    spread = torch.linspace(0.2, 2, torch.Size(shape).numel(), dtype=DOUBLE).view(shape)
    return network, find_layers(network), (torch.randn(count, *shape, dtype=DOUBLE) + 0.7) * spread


def in_batches(images, size):
    return [(part, torch.zeros(len(part))) for part in images.split(size)]


def patches_of(network, spec, inputs):
    """Patches (g, n, p), each entry the output of the layer under a weight that is 1 there only."""
    layer = network.layer
    held = layer.weight.detach().clone()
    groups, size = spec.groups, torch.Size(spec.weight_shape[1:]).numel()
    columns = []
    for column in range(size):
        probe = torch.zeros(spec.weight_shape, dtype=DOUBLE)
        probe.flatten(1)[:: spec.out_channels // groups, column] = 1  # the first of each group
        with torch.no_grad():
            layer.weight.copy_(own_form(probe, layer))
            output = layer(inputs)
            if layer.bias is not None:
                output = output - layer.bias.view(-1, *[1] * len(spec.kernel))
        rows = output.movedim(-1 - len(spec.kernel), 0).flatten(1)
        columns.append(rows[:: spec.out_channels // groups].numpy().copy())
    with torch.no_grad():
        layer.weight.copy_(held)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("size", [1, 7, 20])
@pytest.mark.parametrize("kind", LAYERS)
def test_moments_are_those_of_all_patches(kind, size):
    network, specs, inputs = alone(kind)
    x = patches_of(network, specs["layer"], inputs)
    found = gather_input_moments(network, specs, in_batches(inputs, size))["layer"]
    positions = x.shape[2]
    mean = x.mean(axis=2)
    moments = x @ x.transpose(0, 2, 1) / positions
    assert found.count == positions
    assert found.absorber == ("layer" if specs["layer"].bias else None)
    if found.absorber:
        moments -= mean[:, :, None] * mean[:, None, :]
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=1e-13 * np.abs(x).max())
    np.testing.assert_allclose(found.moments, moments, rtol=0, atol=1e-13 * np.abs(x).max() ** 2)
    assert torch.equal(found.moments, found.moments.mT)


@pytest.mark.parametrize("kind", ["conv2d without bias", "grouped", "transposed 1d", "tokens"])
def test_they_give_the_energy_of_the_outputs(kind):
    network, specs, inputs = alone(kind)
    spec = specs["layer"]
    found = gather_input_moments(network, specs, in_batches(inputs, 6))["layer"]
    weight = layer_weight(network.layer).reshape(spec.groups, -1, found.moments.shape[-1])
    energies = (weight @ found.moments @ weight.mT).diagonal(dim1=1, dim2=2).flatten()
    outputs = network(inputs).detach().movedim(-1 - len(spec.kernel), 0).flatten(1)
    torch.testing.assert_close(energies, outputs.square().mean(1), rtol=1e-12, atol=0)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_geometry(kernel, stride, padding, dilation, transposed, seed):
    torch.manual_seed(seed)
    make = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = make(
        2, 3, (kernel, 2), stride=(stride, 1), padding=(padding, 1), dilation=(dilation, 1),
        bias=False,
    )  # fmt: skip
    network = nn.Sequential()
    network.add_module("layer", layer)
    network = network.double().eval()
    specs = find_layers(network)
    inputs = torch.randn(3, 2, 8, 5, dtype=DOUBLE)
    x = patches_of(network, specs["layer"], inputs)
    found = gather_input_moments(network, specs, in_batches(inputs, 2))["layer"]
    expected = x @ x.transpose(0, 2, 1) / x.shape[2]
    np.testing.assert_allclose(found.moments, expected, rtol=0, atol=1e-12)


def test_a_small_bound_on_memory_changes_nothing_but_the_last_bits(monkeypatch):
    from alds_cli.calibration import sensitivities  # noqa: PLC0415 - to patch its bound

    network, specs, inputs = alone("conv2d")
    whole = gather_input_moments(network, specs, in_batches(inputs, 5))["layer"]
    monkeypatch.setattr(sensitivities, "_PATCH_BYTES", 1000)
    monkeypatch.setattr(moment_sums, "_HELD_BYTES", 1)
    parts = gather_input_moments(network, specs, in_batches(inputs, 5))["layer"]
    torch.testing.assert_close(parts.moments, whole.moments, rtol=0, atol=1e-13)
    assert parts.count == whole.count


def test_layers_with_too_many_inputs_count_all_directions_alike(monkeypatch):
    network, specs, inputs = alone("conv2d")
    usual = gather_input_moments(network, specs, in_batches(inputs, 5))["layer"]
    monkeypatch.setattr(moment_sums, "MOST_BYTES", 8 * 18 * 18 - 1)
    found = gather_input_moments(network, specs, in_batches(inputs, 5))["layer"]
    assert found.moments is None
    assert torch.equal(found.mean, usual.mean)
    table = input_tables({"layer": found})["layer"]
    sigma = np.linalg.svd(layer_weight(network.layer).flatten(1).numpy(), compute_uv=False)
    row = int(np.flatnonzero((table.choices == (0, 1, 1)).all(axis=1))[0])
    assert table.tail_energy[row] == pytest.approx(float((sigma[1:] ** 2).sum()), rel=1e-9)
    assert table.energies[0] == pytest.approx(float((sigma**2).sum()), rel=1e-9)


class Twice(nn.Module):
    """A layer that is called twice, one that is shown images that are not batched, and a norm."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.single = nn.Conv2d(2, 4, 2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.never = nn.Linear(4, 4)

    def forward(self, image):
        found = self.twice(torch.relu(self.twice(image)))
        found = torch.stack([self.single(one) for one in found])
        return self.norm(found)


def test_calls_are_added_up():
    torch.manual_seed(0)
    network = Twice().double().eval()
    specs = find_layers(network)
    inputs = torch.randn(6, 2, 5, 5, dtype=DOUBLE)
    found = gather_input_moments(network, specs, in_batches(inputs, 4))
    assert list(found) == ["twice", "single"]
    assert found["twice"].count == 2 * 6 * 25
    assert found["single"].count == 6 * 16
    kept = keep_unobserved(specs, found, NOT_OBSERVED)
    assert kept["never"].reason == NOT_OBSERVED
    middle = torch.relu(network.twice(inputs)).detach()
    both = torch.cat([inputs, middle])
    x = nn.functional.unfold(both, 3, padding=1).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found["twice"].moments[0], x @ x.T / x.shape[1])


def test_the_same_bits_for_any_number_of_threads(threads):
    network = digits_network()
    specs = find_layers(network)
    generator = torch.Generator().manual_seed(0)
    batches = in_batches(torch.randn(90, 1, 8, 8, generator=generator), 4)
    threads(1)
    alone = gather_input_moments(network, specs, batches)
    tables = input_tables(alone)
    for count in (2, 4):
        threads(count)
        together = gather_input_moments(network, specs, batches)
        again = input_tables(together)
        for name, own in alone.items():
            assert torch.equal(own.mean, together[name].mean)
            assert torch.equal(own.moments, together[name].moments)
            assert np.array_equal(tables[name].tail_energy, again[name].tail_energy)


def test_progress_counts_all_batches():
    events = []
    network, specs, inputs = alone("linear")
    gather_input_moments(network, specs, in_batches(inputs, 3), progress=events.append)
    assert [(event.task, event.done, event.total) for event in events] == [
        ("calibrate", done, 7) for done in range(1, 8)
    ]


def test_what_cannot_be_measured_is_an_error():
    network, specs, inputs = alone("linear")
    with pytest.raises(DataError, match="no images"):
        gather_input_moments(network, specs, [])
    with pytest.raises(DataError, match="inputs of layer are not finite"):
        gather_input_moments(network, specs, in_batches(inputs * torch.inf, 4))
    with pytest.raises(DataError):
        gather_input_moments(network, specs, in_batches(inputs[:, :3], 4))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_moments():
    network, specs, inputs = alone("conv2d")
    here = gather_input_moments(network, specs, in_batches(inputs, 4))["layer"]
    device = torch.device("cuda")
    there = gather_input_moments(network, specs, in_batches(inputs, 4), device=device)["layer"]
    assert there.moments.device.type == "cpu"
    torch.testing.assert_close(there.moments, here.moments, rtol=0, atol=1e-10)
