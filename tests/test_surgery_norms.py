"""Normalised weights folded into plain ones, and artefacts of such networks."""

from __future__ import annotations

import copy
import logging
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import alds_cli
from alds_cli.architectures import build
from alds_cli.errors import ArchitectureError
from alds_cli.network.opening import stated_architecture
from alds_cli.records import Architecture
from alds_cli.surgery import (
    detach_computed,
    find_layers,
    fold_absent_norms,
    fold_norms,
)

NORMS = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "hooked weight norm": nn.utils.weight_norm,
    "hooked spectral norm": nn.utils.spectral_norm,
}

LAYERS = {
    "linear": lambda: nn.Linear(6, 6),
    "conv1d": lambda: nn.Conv1d(6, 6, 3),
    "conv2d": lambda: nn.Conv2d(6, 6, 3, groups=2),
    "conv3d": lambda: nn.Conv3d(6, 6, 1),
    "up1d": lambda: nn.ConvTranspose1d(6, 6, 3),
    "up2d": lambda: nn.ConvTranspose2d(6, 6, 3),
    "up3d": lambda: nn.ConvTranspose3d(6, 6, 1),
}

SHAPES = {"1d": (2, 6, 5), "2d": (2, 6, 5, 5), "3d": (2, 6, 4, 4, 4), "ar": (2, 6)}


def normalised(norm, layer):
    """A layer with a norm, its parameters anything; the hooked ones are deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return NORMS[norm](layer)


def pair_of(norm, kind):
    """Two layers with the norm, trained a little, and an input for them."""
    torch.manual_seed(0)
    network = nn.Sequential(*(normalised(norm, LAYERS[kind]()) for _ in range(2))).double()
    rows = torch.randn(SHAPES[kind[-2:]], dtype=torch.float64)
    for _ in range(3):
        network(rows).square().mean().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(0.1 * parameter.grad)
    return network.eval(), rows


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("norm", NORMS)
def test_folded_layers_are_plain_and_compute_the_same(norm, kind):
    network, rows = pair_of(norm, kind)
    expected = network(rows)
    kept = find_layers(network)
    assert all("computed by" in spec.reason for spec in kept.values())
    assert set(fold_norms(network)) == {"0", "1"}
    assert [spec.reason for spec in find_layers(network).values()] == [None, None]
    assert [name for name, _ in network[0].named_parameters()] in (
        ["weight", "bias"],
        ["bias", "weight"],
    )
    torch.testing.assert_close(network(rows), expected, rtol=1e-9, atol=1e-9)
    assert fold_norms(network) == {}


@pytest.mark.parametrize("norm", NORMS)
def test_in_training_mode_folding_moves_nothing(norm):
    network, rows = pair_of(norm, "linear")
    expected = network(rows)
    network.train()
    fold_norms(network)
    torch.testing.assert_close(network.eval()(rows), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("norm", NORMS)
def test_what_a_state_dict_lacks_is_folded_and_what_it_has_is_not(norm, device):
    network, _ = pair_of(norm, "conv1d")
    entries = list(network.state_dict())
    plain = [name for name in entries if name.startswith("1.")] + ["0.weight", "0.bias"]
    fold_absent_norms(network.to(device), entries)
    assert list(network.state_dict()) == entries
    fold_absent_norms(network, plain)
    assert set(network.state_dict()) == set(plain)


@pytest.mark.parametrize("norm", NORMS)
def test_what_was_folded_can_be_loaded_into(norm):
    """Norms leave hooks behind that convert what former versions of them have saved."""
    network, _ = pair_of(norm, "linear")
    fold_norms(network)
    state = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    assert torch.equal(network[0].weight, state["0.weight"])


def test_only_norms_are_folded():
    class Halved(nn.Module):
        def forward(self, weight):
            return weight / 2

    network = nn.Sequential(*(parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(2)))
    parametrize.register_parametrization(network[0], "weight", Halved())
    assert fold_norms(network) == {"1": "weight norm"}
    assert find_layers(network)["0"].reason == "its weight is computed by a parametrization"


class Inside(nn.Module):
    """A layer of any kind with a norm, between others."""

    def __init__(self, kind, add):
        super().__init__()
        self.kind = kind
        self.layer = {
            "embedding": lambda: nn.Embedding(32, 6),
            "attention": lambda: nn.MultiheadAttention(6, 2, batch_first=True),
            "gru": lambda: nn.GRU(6, 6, batch_first=True),
            "twice": lambda: nn.Linear(6, 6),
        }[kind]()
        self.tensor = {"attention": "in_proj_weight", "gru": "weight_hh_l0"}.get(kind, "weight")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            add(self.layer, self.tensor)
        if kind == "twice":
            self.again = self.layer
        self.head = nn.Linear(6, 6)

    def forward(self, x):
        if self.kind == "attention":
            return self.head(self.layer(x, x, x)[0])
        if self.kind == "gru":
            return self.head(self.layer(x)[0])
        return self.head(self.again(self.layer(x)) if self.kind == "twice" else self.layer(x))


INSIDE = ("embedding", "attention", "gru", "twice")


@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_layers_of_every_kind_are_folded(norm, kind):
    torch.manual_seed(0)
    network = Inside(kind, NORMS[norm]).eval()
    rows = torch.arange(10).reshape(2, 5) if kind == "embedding" else torch.randn(2, 5, 6)
    expected = network(rows)
    assert [*fold_norms(network)] == ["layer"]
    found = network(rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert type(network.layer) in (nn.Embedding, nn.MultiheadAttention, nn.GRU, nn.Linear)
    reasons = [spec.reason or "" for spec in find_layers(network).values()]
    assert not any("computed" in reason for reason in reasons)
    with torch.no_grad():
        getattr(network.layer, network.tensor).mul_(2)
    assert not torch.equal(network(rows), found)


@pytest.mark.parametrize("norm", NORMS)
def test_folding_leaves_copies_of_a_layer_alone(norm):
    network, rows = pair_of(norm, "linear")
    expected = network(rows)
    detach_computed(network)
    copied = copy.deepcopy(network)
    fold_norms(copied)
    torch.testing.assert_close(network(rows), expected)
    torch.testing.assert_close(copied(rows), expected)
    assert "computed" in find_layers(network)["0"].reason


@pytest.mark.parametrize("norm", [name for name in NORMS if "hooked" not in name])
def test_layers_that_are_copies_of_one_another_are_folded_one_by_one(norm):
    """As those of an `nn.TransformerEncoder` are."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    NORMS[norm](layer.linear1)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    rows = torch.randn(2, 3, 8)
    expected = network(rows)
    fold_norms(network)
    torch.testing.assert_close(network(rows), expected, rtol=1e-5, atol=1e-6)


def test_a_network_that_was_handed_in_can_be_compressed_twice():
    torch.manual_seed(0)
    network = nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 16)), nn.Linear(16, 16))
    rows = torch.randn(3, 16)
    expected = network.eval()(rows)
    source = alds_cli.Source(input_shape=(16,))
    results = [alds_cli.compress(network, source, ratio=0.3) for _ in range(2)]
    assert len({result.report.params_after for result in results}) == 1
    torch.testing.assert_close(network(rows), expected)


@pytest.mark.parametrize("norm", ["weight norm", "hooked weight norm"])
def test_a_recurrent_layer_with_a_norm_can_be_copied(norm):
    network = Inside("gru", NORMS[norm]).eval()
    rows = torch.randn(2, 5, 6)
    expected = network(rows)
    detach_computed(network)
    torch.testing.assert_close(copy.deepcopy(network)(rows), expected)


def test_a_norm_whose_parameters_stand_elsewhere_too_stays():
    network = nn.Sequential(*(parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(2)))
    own = network[0].parametrizations.weight
    network[1].parametrizations.weight.original1 = own.original1
    assert fold_norms(network) == {}
    assert "weight norm" in find_layers(network)["0"].reason


@pytest.mark.parametrize("norm", ["hooked weight norm", "hooked spectral norm"])
def test_what_a_hook_has_computed_can_be_copied(norm):
    network, rows = pair_of(norm, "linear")
    network(rows)
    detach_computed(network)
    torch.testing.assert_close(copy.deepcopy(network)(rows), network(rows))


FACTORY = """
import torch, warnings
from torch import nn

def vocoder(norm):
    home, _, name = norm.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        add = getattr(getattr(nn.utils, home) if home else nn.utils, name)
        made = nn.Sequential(
            add(nn.Conv1d(8, 32, 5, padding=2)), nn.ReLU(), add(nn.Conv1d(32, 32, 5, padding=2)),
            nn.ReLU(), nn.Conv1d(32, 8, 1),
        )
    made.input_shape = (8, 12)
    return made
"""


@pytest.fixture
def arch(tmp_path, monkeypatch):
    (tmp_path / "vocoders.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return "vocoders:vocoder"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "norm",
    [
        "weight_norm",
        "spectral_norm",
        "parametrizations.weight_norm",
        "parametrizations.spectral_norm",
        "parametrizations.orthogonal",
    ],
)
def test_networks_with_norms_are_compressed_and_come_back(arch, norm, prefix, caplog):
    source = {"arch": arch, "arch_args": {"norm": norm}}
    torch.manual_seed(0)
    network = _built(source)
    rows = torch.randn(1, 8, 12)
    with torch.no_grad():
        expected = network(rows)
    torch.save({prefix + name: tensor for name, tensor in network.state_dict().items()}, "w.pt")
    torch.testing.assert_close(alds_cli.load("w.pt", **source)(rows), expected)

    with caplog.at_level(logging.WARNING, "alds_cli"):
        result = alds_cli.compress("w.pt", alds_cli.Source(**source), ratio=0.1, output="s.pt")
    assert [record.getMessage() for record in caplog.records] == [
        f"{_title(norm)} of 2 layers was folded into their weights"
    ]
    assert any(layer.choice is not None for layer in result.report.layers)
    assert not any("computed" in (layer.reason or "") for layer in result.report.layers)
    small = alds_cli.load("s.pt", **source)
    assert sum(p.numel() for p in small.parameters()) == result.report.params_after
    again = alds_cli.inspect("s.pt", alds_cli.Source(**source))
    assert again.params_before == result.report.params_before
    alds_cli.compress("s.pt", alds_cli.Source(**source), ratio=0.5, output="again.pt")
    assert alds_cli.load("again.pt", **source)(rows).shape == expected.shape


def _built(source):
    architecture = stated_architecture(alds_cli.Source(**source))
    return build(architecture).eval()


def _title(norm):
    return {"weight_norm": "weight norm", "spectral_norm": "spectral norm"}.get(
        norm.rpartition(".")[2], "an orthogonal parametrization"
    )


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_of_hooked_norms_fit_networks_with_parametrized_ones(arch, norm, prefix):
    torch.manual_seed(0)
    network = _built({"arch": arch, "arch_args": {"norm": norm}})
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    torch.save(state, "old.pt")
    today = {"arch": arch, "arch_args": {"norm": f"parametrizations.{norm}"}}
    rows = torch.randn(1, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(alds_cli.load("old.pt", **today)(rows), network(rows))
    alds_cli.compress("old.pt", alds_cli.Source(**today), ratio=0.1, output="s.pt")
    assert alds_cli.load("s.pt", **today)(rows).shape == (1, 8, 12)


CHANGES = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "weight norm": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
@pytest.mark.parametrize("named", [{}, {"arch": "cifar_resnet20"}], ids=["", "named"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_computed_weights_for_a_network_of_plain_ones_is_told(
    change, named, tmp_path
):
    network = build(Architecture("cifar_resnet20", {}))
    for part in list(network.modules()):
        if isinstance(part, nn.Conv2d):
            CHANGES[change](part)
    torch.save(
        {f"module.{name}": own for name, own in network.state_dict().items()}, tmp_path / "w"
    )
    with pytest.raises(ArchitectureError, match="19 missing from the checkpoint") as caught:
        alds_cli.load(tmp_path / "w", **named)
    expected = "prune.remove" if change == "pruned" else "compute their weights"
    assert expected in caught.value.tip
