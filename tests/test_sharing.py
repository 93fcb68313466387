"""Tensors under several names: one tensor from the factory to the artefact and back."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from alds_cli import api, architectures
from alds_cli.architectures.building import share, shared_groups
from alds_cli.checkpoint import Document, artefact_size, write_artefact
from alds_cli.errors import BadWeightsError, CheckpointError, OutputError
from alds_cli.records import Architecture, Plan
from alds_cli.tracing.trace import count_parameters

SOURCE = '''
import torch
from torch import nn


class Tied(nn.Module):
    """Two layers of the same weight, and two that may be decomposed."""

    def __init__(self):
        super().__init__()
        self.input_shape = (32,)
        self.first, self.last = nn.Linear(32, 32), nn.Linear(32, 32)
        self.wide, self.back = nn.Linear(32, 128), nn.Linear(128, 32)
        self.norm = nn.BatchNorm1d(32)
        self.tie()

    def tie(self):
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.norm(self.back(torch.relu(self.wide(self.first(x))))))


class ByParameter(Tied):
    pass


class ByModule(Tied):
    def tie(self):
        self.last = self.first


class ByStorage(Tied):
    def tie(self):
        self.last.weight = nn.Parameter(self.first.weight)


class ByData(Tied):
    def tie(self):
        self.last.weight.data = self.first.weight.data


class ByBuffer(Tied):
    def tie(self):
        self.again = nn.BatchNorm1d(32)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(self.again, name, getattr(self.norm, name))
        self.last.weight = self.first.weight


class ByNorm(Tied):
    def tie(self):
        self.again = self.norm
        self.last.weight = self.first.weight


class Windows(Tied):
    """Weights that are parts of one memory: not shared."""

    def tie(self):
        whole = torch.randn(64, 32)
        self.first.weight, self.last.weight = nn.Parameter(whole[:32]), nn.Parameter(whole[32:])
'''

TIED = ["ByParameter", "ByModule", "ByStorage", "ByData", "ByBuffer", "ByNorm"]
SUFFIXES = [".pt", ".safetensors"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The networks' module, in the current directory."""
    (tmp_path / "tied_of_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import tied_of_test  # noqa: PLC0415

    torch.manual_seed(0)
    yield tied_of_test
    sys.modules.pop("tied_of_test", None)


def true_size(network):
    """The network's parameters, the same memory once."""
    return sum({p.data_ptr(): p.numel() for p in network.parameters()}.values())


def require_tied(network):
    assert network.first.weight is network.last.weight
    if hasattr(network, "again"):
        assert network.again.running_mean is network.norm.running_mean
        assert network.again.num_batches_tracked is network.norm.num_batches_tracked


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kind", TIED)
def test_building_keeps_them(kind, device, own):
    built = architectures.build(Architecture(f"tied_of_test:{kind}"), device=device)
    require_tied(built)
    assert count_parameters(built) == true_size(getattr(own, kind)())


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("ratio", ["0.2", "0.4"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", TIED)
def test_the_ratio_counts_them_once(kind, suffix, ratio, own, tmp_path):
    network = getattr(own, kind)().eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    arch, target = f"tied_of_test:{kind}", tmp_path / f"small{suffix}"
    report = api.compress("w.pt", api.Source(arch), ratio=ratio, output=target).report
    whole = true_size(network)
    assert report.params_before == whole
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert "shared" in reasons["first"]
    small = api.load(target, arch=arch)
    require_tied(small)
    assert count_parameters(small) == report.params_after <= (1 - float(ratio)) * whole
    again = api.compress(target, api.Source(arch), ratio=ratio).report
    assert again.params_before == whole


@pytest.mark.parametrize("kind", TIED)
def test_files_that_hold_one_of_the_names_are_enough(kind, own, tmp_path):
    network = getattr(own, kind)().eval()
    save_model(network, str(tmp_path / "w.safetensors"))
    held = load_file(tmp_path / "w.safetensors")
    inputs = torch.randn(3, 32)
    found = api.load("w.safetensors", arch=f"tied_of_test:{kind}")
    require_tied(found)
    assert torch.equal(found(inputs), network(inputs))
    for group in shared_groups(architectures.build(Architecture(f"tied_of_test:{kind}"))):
        for kept in group:
            state = {n: t for n, t in network.state_dict().items() if n == kept or n not in group}
            torch.save(state, tmp_path / "one.pt")
            found = api.load("one.pt", arch=f"tied_of_test:{kind}")
            assert torch.equal(found(inputs), network(inputs))
    assert held.keys() < network.state_dict().keys()


@pytest.mark.parametrize("kind", TIED)
def test_different_values_under_shared_names_are_refused(kind, own, tmp_path):
    state = dict(getattr(own, kind)().state_dict())
    state["last.weight"] = state["last.weight"] + 1
    torch.save(state, tmp_path / "w.pt")
    arch = f"tied_of_test:{kind}"
    with pytest.raises(BadWeightsError, match=r"first\.weight and last\.weight") as caught:
        api.load("w.pt", arch=arch)
    assert "--ignore '*last.weight'" in caught.value.tip
    found = api.load("w.pt", arch=arch, ignore="*last.weight")
    assert torch.equal(found.last.weight, state["first.weight"])


@pytest.mark.parametrize("kind", TIED)
def test_both_formats_write_them_once(kind, own, tmp_path):
    network = getattr(own, kind)().eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    arch = f"tied_of_test:{kind}"
    numbers = sum(
        {t.data_ptr(): t.nbytes for t in network.state_dict().values() if t.numel()}.values()
    )
    for suffix in SUFFIXES:
        target = tmp_path / f"whole{suffix}"
        size = api.save(api.compress("w.pt", api.Source(arch), ratio=0.1).network, target)
        assert size == target.stat().st_size
        assert size < numbers + 7000
        found = api.compress(
            "w.pt", api.Source(arch), max_size="24kB", output=tmp_path / f"s{suffix}"
        )
        assert found.report.bytes_after <= 24_000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ties_that_the_factory_does_not_make_come_back(suffix, own, tmp_path):
    network = own.Windows().eval()
    network.last.weight = network.first.weight
    api.save(network, tmp_path / f"w{suffix}", arch="tied_of_test:Windows", input_shape=(32,))
    found = api.load(tmp_path / f"w{suffix}", arch="tied_of_test:Windows")
    require_tied(found)
    inputs = torch.randn(3, 32)
    assert torch.equal(found(inputs), network(inputs))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parts_of_one_memory_stay_apart(suffix, own, tmp_path):
    network = own.Windows().eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert shared_groups(network) == []
    target = tmp_path / f"small{suffix}"
    report = api.compress(
        "w.pt", api.Source("tied_of_test:Windows"), ratio=0.3, output=target
    ).report
    assert report.params_before == sum(p.numel() for p in network.parameters())
    assert not any("shared" in (layer.reason or "") for layer in report.layers)
    small = api.load(target, arch="tied_of_test:Windows")
    assert count_parameters(small) == report.params_after
    whole = torch.randn(64, 32)
    tensors = {"a": whole[:32], "b": whole[32:], "c": whole}
    document = Document(Architecture("resnet18"), Plan({}))
    size = write_artefact(tensors, document, target)
    assert size == artefact_size(tensors, document, target) > 2 * whole.nbytes


def test_modules_in_memory_are_copied_with_what_they_share(own):
    network = own.ByStorage()
    result = api.compress(
        network, api.Source("tied_of_test:ByStorage", input_shape=(32,)), ratio=0.3
    )
    assert result.report.params_before == true_size(network)
    require_tied(result.network.module)
    assert network.first.weight is not network.last.weight


def test_damaged_statements_of_what_is_shared_are_refused(own, tmp_path):
    state = own.Windows().state_dict()
    arch = Architecture("tied_of_test:Windows")
    for shared in (
        {"nowhere": "first.weight"},
        {"first.weight": "nowhere"},
        {"first.weight": "norm.running_mean"},
    ):
        write_artefact(state, Document(arch, Plan({}), shared=shared), tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match="cannot share"):
            api.load("w.pt", arch="tied_of_test:Windows")


def test_shared_groups_of_odd_tensors():
    net = nn.Module()
    net.a = nn.Parameter(torch.ones(0))
    net.b = nn.Parameter(torch.ones(0))
    net.c = nn.Parameter(torch.ones(3, 2))
    net.d = nn.Parameter(net.c.detach().t())
    net.register_buffer("e", net.c.detach())
    net.register_buffer("f", torch.eye(3).to_sparse())
    assert shared_groups(net) == []
    net.g = net.f
    net.register_buffer("h", net.f)
    net.i = nn.Parameter(net.c.detach())
    assert shared_groups(net) == [("c", "i"), ("f", "h")]
    share(net, shared_groups(net))
    assert net.i is net.c


SPECTRAL = """
import torch
from torch import nn


class Fourier(nn.Module):
    def __init__(self, dtype="complex64", whole="int64"):
        super().__init__()
        self.input_shape = (64,)
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.w = nn.Parameter(torch.randn(33, dtype=getattr(torch, dtype)))
        self.steps = nn.Parameter(torch.arange(3).to(getattr(torch, whole)), requires_grad=False)
        self.register_buffer("mask", torch.ones(64, dtype=torch.bool))

    def forward(self, x):
        y = torch.fft.irfft(torch.fft.rfft(self.a(x)) * self.w.to(torch.cfloat), n=64)
        return self.b(y * self.mask)


class ComplexLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_shape = (64,)
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64, dtype=torch.cfloat)

    def forward(self, x):
        return torch.view_as_real(self.b(self.a(x).to(torch.cfloat)))
"""


@pytest.fixture
def spectral(tmp_path, monkeypatch):
    (tmp_path / "spectral_of_test.py").write_text(SPECTRAL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import spectral_of_test  # noqa: PLC0415

    torch.manual_seed(0)
    yield spectral_of_test
    sys.modules.pop("spectral_of_test", None)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("whole", ["int64", "uint8", "bool"])
def test_parameters_of_other_kinds_are_kept_and_counted(whole, suffix, spectral, tmp_path):
    network = spectral.Fourier(whole=whole)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    source = api.Source("spectral_of_test:Fourier", {"whole": whole})
    report = api.compress("w.pt", source, ratio=0.4, output=tmp_path / f"s{suffix}").report
    assert report.params_before == 2 * (64 * 64 + 64) + 33 + 3
    assert {layer.name for layer in report.layers if layer.choice is not None} <= {"a", "b"}
    assert report.ratio >= 0.4
    found = api.load(
        tmp_path / f"s{suffix}", arch="spectral_of_test:Fourier", arch_args={"whole": whole}
    )
    assert torch.equal(found.w, network.w)
    assert torch.equal(found.steps, network.steps)


def test_layers_of_complex_weights_are_kept_with_that_reason(spectral, tmp_path):
    torch.save(spectral.ComplexLayer().state_dict(), tmp_path / "w.pt")
    report = api.compress("w.pt", api.Source("spectral_of_test:ComplexLayer"), ratio=0.1).report
    assert {layer.name: layer.reason for layer in report.layers} == {
        "a": None,
        "b": "its weight is complex",
    }


@pytest.mark.parametrize(
    ("entry", "dtype", "complaint", "tip"),
    [
        ("w", torch.float32, "must be complex numbers, unlike w", False),
        ("a.weight", torch.complex64, "must be floating-point numbers, unlike a.weight", False),
        ("a.weight", torch.int8, "must be floating-point numbers, unlike a.weight", True),
        ("a.weight", torch.int64, "must be floating-point numbers, unlike a.weight", False),
        ("steps", torch.float32, "must be whole numbers, unlike steps", False),
    ],
)
def test_other_kinds_than_the_networks_are_refused(
    entry, dtype, complaint, tip, spectral, tmp_path
):
    state = spectral.Fourier().state_dict()
    values = state[entry].real if state[entry].is_complex() else state[entry]
    torch.save({**state, entry: values.to(dtype)}, tmp_path / "w.pt")
    with pytest.raises(BadWeightsError, match=complaint) as caught:
        api.load("w.pt", arch="spectral_of_test:Fourier")
    assert ("quantised" in str(caught.value.tip)) is tip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_complex_values_must_be_finite(value, spectral, tmp_path):
    state = spectral.Fourier().state_dict()
    state["w"][3] = complex(0.0, value)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(BadWeightsError, match="in w"):
        api.load("w.pt", arch="spectral_of_test:Fourier")


def test_complex128_has_no_place_in_safetensors(spectral, tmp_path):
    torch.save(spectral.Fourier("complex128").state_dict(), tmp_path / "w.pt")
    source = api.Source("spectral_of_test:Fourier", {"dtype": "complex128"})
    assert api.compress("w.pt", source, ratio=0.3, output="s.pt").report.ratio >= 0.3
    with pytest.raises(OutputError, match="complex128"):
        api.compress("w.pt", source, ratio=0.3, output="s.safetensors")
    assert not (tmp_path / "s.safetensors").exists()


def test_an_artefacts_tensors_alone_are_enough(own):
    network = own.ByParameter()
    api.save(network, "w.safetensors", arch="tied_of_test:ByParameter", input_shape=(32,))
    held = load_file("w.safetensors")
    assert "last.weight" not in held
    save_file(held, "plain.safetensors")
    require_tied(api.load("plain.safetensors", arch="tied_of_test:ByParameter"))
