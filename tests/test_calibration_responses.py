"""Mean and covariance of layers' responses, and who can take a constant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import digits_network
from torch import nn
from torch.nn import functional as F

from alds_cli.calibration import (
    Responses,
    gather_responses,
    keep_unobserved,
    observe,
    response_energies,
    responses,
)
from alds_cli.calibration.responses import NOT_OBSERVED
from alds_cli.errors import DataError
from alds_cli.surgery import find_layers
from alds_cli.surgery.following_norms import following_norms


class Varied(nn.Module):
    """A layer of every kind that counts, in various surroundings."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(1, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=2)
        self.twice = nn.Conv2d(6, 6, 1, bias=False)
        self.tokens = nn.Linear(6, 10)
        self.wide = nn.Linear(10, 70, bias=False)
        self.last = nn.BatchNorm1d(70)

    def forward(self, image):
        found = F.relu(self.norm(self.plain(image)))
        found = self.up(F.relu(self.grouped(found)))
        found = self.twice(F.relu(self.twice(found)))
        found = self.tokens(found.flatten(2).transpose(1, 2))
        return self.last(self.wide(F.relu(found.mean(1))))


def varied(seed=0):
    torch.manual_seed(seed)
    network = Varied().eval()
    with torch.no_grad():
        for part in (network.norm, network.last):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return network


def inputs(count, seed=0, size=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, size, size, generator=generator)


def in_batches(images, sizes):
    return [(part, torch.zeros(len(part))) for part in images.split(sizes)]


class Outputs:
    """All responses as (n, f) in float64."""

    def __init__(self, specs):
        self.axes = {name: -1 - len(spec.kernel) for name, spec in specs.items()}

    def look(self, call):
        moved = call.output.movedim(self.axes[call.name], -1)
        return moved.reshape(-1, moved.shape[-1]).double().numpy().copy()

    def merge(self, before, after):
        return np.concatenate([before, after])


def blocks_of(matrix, groups):
    size = len(matrix) // groups
    return np.stack([matrix[i : i + size, i : i + size] for i in range(0, len(matrix), size)])


@pytest.mark.parametrize("sizes", [[30], [1] * 30, [7, 7, 7, 7, 2]])
def test_moments_are_those_of_all_responses_at_once(sizes):
    network = varied().double()  # in float32 the network's own sums round more
    specs = find_layers(network)
    batches = in_batches(inputs(30), sizes)
    every = observe(network, list(specs), batches, Outputs(specs))
    found = gather_responses(network, specs, batches)
    assert list(found) == list(specs)
    for name, own in found.items():
        y, groups = every[name], specs[name].groups
        whole = np.cov(y.T, ddof=0) if own.absorber else y.T @ y / len(y)
        assert own.count == len(y)
        np.testing.assert_allclose(own.mean, y.mean(0), rtol=1e-12, atol=1e-13)
        whole = blocks_of(whole, groups)
        full = own.moments if own.frame is None else own.frame @ own.moments @ own.frame.mT
        scale = np.abs(whole).max()
        tolerance = 1e-13 if own.frame is None else 1e-9
        np.testing.assert_allclose(full, whole, rtol=0, atol=tolerance * scale)
        assert (own.frame is None) == (name not in ("wide", "tokens"))


def test_the_same_bits_for_any_number_of_threads(threads):
    network = varied()
    specs = find_layers(network)
    batches = in_batches(inputs(90), 4)
    alone = gather_responses(network, specs, batches)
    energies = response_energies(alone)
    for count in (2, 4):
        threads(count)
        together = gather_responses(network, specs, batches)
        for name, own in alone.items():
            assert torch.equal(own.mean, together[name].mean)
            assert torch.equal(own.moments, together[name].moments)
        again = response_energies(together)
        assert all(np.array_equal(energies[name], again[name]) for name in energies)


def test_the_order_of_the_images_is_of_no_matter_but_for_rounding():
    network = varied()
    specs = find_layers(network)
    images = inputs(40)
    one = gather_responses(network, specs, in_batches(images, 8))
    other = gather_responses(network, specs, in_batches(images.flip(0), 11))
    for name, own in one.items():
        scale = float(own.moments.abs().max())
        torch.testing.assert_close(own.moments, other[name].moments, rtol=0, atol=1e-5 * scale)


def test_small_deviations_from_a_large_mean_are_not_lost():
    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4, dtype=torch.float64)

        def forward(self, x):
            return self.layer(x.flatten(1))

    network = Offset().eval()
    with torch.no_grad():
        network.layer.weight.copy_(torch.eye(4) * 1e-3)
        network.layer.bias.fill_(1e5)
    x = torch.randn(400, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gather_responses(network, find_layers(network), in_batches(x, 9))["layer"]
    expected = np.cov(x.flatten(1).numpy().T, ddof=0) * 1e-6
    # What rounding leaves of numbers near 1e5 is 1e-11; their squares would lose all.
    np.testing.assert_allclose(found.moments[0], expected, rtol=1e-4, atol=1e-12)


def test_many_blocks_are_one(monkeypatch):
    network = varied()
    specs = find_layers(network)
    batches = in_batches(inputs(20), 20)
    whole = gather_responses(network, specs, batches)
    monkeypatch.setattr(responses, "_CHUNK_BYTES", 1)
    pieces = gather_responses(network, specs, batches)
    for name, own in whole.items():
        torch.testing.assert_close(own.moments, pieces[name].moments, rtol=1e-10, atol=1e-13)


def test_a_constant_goes_into_the_bias_or_the_norm_or_nowhere():
    network = varied()
    found = gather_responses(network, find_layers(network), in_batches(inputs(12), 4))
    assert {name: own.absorber for name, own in found.items()} == {
        "plain": "norm",  # nothing stands in between
        "grouped": None,  # an activation does
        "up": "up",  # has a bias
        "twice": None,
        "tokens": "tokens",
        "wide": "last",
    }


class Sequences(nn.Module):
    """A normalisation of positions, of which there are as many as features."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5, bias=False)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, image):
        return self.norm(self.layer(image[:, 0]))


def test_a_norm_over_other_channels_takes_nothing():
    network = Sequences().eval()
    assert following_norms(network) == {"layer": "norm"}
    found = gather_responses(network, find_layers(network), in_batches(inputs(8, size=5), 4))
    assert found["layer"].absorber is None


def test_a_shared_bias_takes_nothing():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(49, 4), nn.Linear(4, 4)
            self.two.bias = self.one.bias

        def forward(self, image):
            return self.two(self.one(image.flatten(1)))

    network = Shared().eval()
    images = inputs(8)
    found = gather_responses(network, find_layers(network), in_batches(images, 4))
    assert [own.absorber for own in found.values()] == [None, None]
    # It stays in the pair: only what the weight makes is approximated.
    linear = F.linear(images.flatten(1), network.one.weight).detach().double()
    expected = linear.T @ linear / 8
    torch.testing.assert_close(found["one"].moments[0], expected, rtol=0, atol=1e-5)


class Surroundings(nn.Module):
    def __init__(self, forward, *, track=True):
        super().__init__()
        self.layer, self.other = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3, track_running_stats=track)
        self.own = forward

    def forward(self, image):
        return self.own(self, image)


def branch(image):
    return image if image.sum() > 0 else -image


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda s, x: s.norm(s.layer(x)), {"layer": "norm"}),
        (lambda s, x: s.norm(s.layer(x)) + s.other(x), {"layer": "norm"}),
        (lambda s, x: s.norm(y := s.layer(x)) + y, {}),
        (lambda s, x: s.norm(s.layer(x) + 1), {}),
        (lambda s, x: s.norm(s.layer(x)) + s.norm(s.other(x)), {}),
        (lambda s, x: s.norm(s.layer(x)) + s.layer(x), {}),
        (lambda s, x: s.norm(s.layer(x)) + s.norm.running_mean.sum(), {}),
        (lambda s, x: s.norm(s.layer(branch(x))), {}),
    ],
)
def test_only_a_norm_for_this_layer_alone_follows_it(forward, expected):
    network = Surroundings(forward)
    assert following_norms(network) == expected
    assert network.training


def test_a_norm_by_the_batchs_own_mean_takes_nothing():
    network = Surroundings(lambda s, x: s.norm(s.layer(x)), track=False)
    assert following_norms(network) == {}


def test_energies_are_the_eigenvalues_and_dead_channels_have_none():
    network = varied()
    with torch.no_grad():
        network.plain.weight[2:] = 0
    specs = find_layers(network)
    found = gather_responses(network, specs, in_batches(inputs(20), 5))
    energies = response_energies(found)
    for name, own in found.items():
        values = np.linalg.eigvalsh(own.moments.numpy())[:, ::-1].sum(0)
        if own.frame is not None:
            orthonormal = own.frame.mT @ own.frame
            one = torch.eye(len(values), dtype=torch.float64).expand_as(orthonormal)
            torch.testing.assert_close(orthonormal, one)
        # No more of them than a pair can have ranks: a wide layer has fewer inputs.
        kept = min(len(values), int(np.prod(specs[name].weight_shape[1:])))
        assert len(energies[name]) == kept
        np.testing.assert_allclose(energies[name], values[:kept], rtol=1e-9, atol=1e-12)
        assert np.all(energies[name] >= 0)
        assert np.all(np.diff(energies[name]) <= 0)
    assert energies["plain"][1] > 0
    assert np.all(energies["plain"][2:] < 1e-15)


def test_layers_that_are_never_called_are_kept_and_say_why():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(49, 4), nn.Linear(49, 4)
            self.by_weight = nn.Linear(4, 3)

        def forward(self, image):
            return F.linear(self.used(image.flatten(1)), self.by_weight.weight)

    network = Partly().eval()
    specs = find_layers(network)
    found = gather_responses(network, specs, in_batches(inputs(8), 4))
    kept = keep_unobserved(specs, found, NOT_OBSERVED)
    assert list(found) == ["used"]
    assert kept["used"] == specs["used"]
    for name in ("unused", "by_weight"):
        assert "does not call it" in kept[name].reason
    # A reason that was there before stays.
    again = keep_unobserved(kept, {}, NOT_OBSERVED)
    assert again["unused"].reason == kept["unused"].reason


def test_layers_left_out_are_not_observed():
    network = digits_network()
    specs = keep_unobserved(find_layers(network), {}, NOT_OBSERVED)
    assert gather_responses(network, specs, in_batches(inputs(4, size=8), 4)) == {}


def test_responses_that_are_not_finite_are_an_error():
    network = varied()
    with pytest.raises(DataError, match="responses of plain are not finite"):
        gather_responses(network, find_layers(network), in_batches(inputs(4) * torch.inf, 4))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_moments():
    network = varied()
    specs = find_layers(network)
    batches = in_batches(inputs(40), 8)
    here = gather_responses(network, specs, batches)
    there = gather_responses(network, specs, batches, device=torch.device("cuda"))
    for name, own in here.items():
        assert isinstance(own, Responses)
        scale = float(own.moments.abs().max())
        torch.testing.assert_close(there[name].moments, own.moments, rtol=0, atol=1e-2 * scale)
        assert there[name].moments.device.type == "cpu"
