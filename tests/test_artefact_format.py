"""The reader on the page that specifies artefacts knows no alds, and reads all of them."""

from __future__ import annotations

import pytest
import torch
from pages import ROOT, blocks_of
from small_networks import digits_network
from torch.nn.utils.parametrize import remove_parametrizations

import alds_cli
from alds_cli.network.loading import load_network
from alds_cli.records import Choice, Plan

PAGE = ROOT / "docs" / "artefact.md"

EVERY_KIND = """
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

class Everything(nn.Module):
    '''Layers of all kinds that pairs are made of, and a tensor of two names.'''

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2), padding_mode="reflect")
        self.same = weight_norm(nn.Conv2d(8, 8, 3, padding="same", dilation=2, bias=False))
        self.grouped = nn.Conv2d(8, 12, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1, output_padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.volume = nn.Conv3d(2, 6, (1, 3, 3), padding=(0, 1, 1))
        self.line = nn.Conv1d(6, 6, 5, stride=3)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.table = nn.Embedding(16, 6, padding_idx=0)
        self.wide = nn.Linear(6, 24)
        self.narrow = nn.Linear(24, 10)
        self.twin = nn.Linear(24, 10)
        self.twin.weight = self.narrow.weight

    def forward(self, image):
        image = self.norm(self.up(self.grouped(torch.relu(self.same(self.plain(image))))))
        volume = self.volume(image.unflatten(1, (2, 4)))
        line = self.line(volume.flatten(2))
        tokens = line.transpose(1, 2)
        tokens = self.attention(tokens, tokens, tokens)[0].mean(1)
        shade = (15 * image.detach().mean((1, 2, 3)).sigmoid()).long()
        wide = torch.relu(self.wide(tokens + self.table(shade)))
        return self.narrow(wide) + self.twin(wide)
"""

CHOICES = {
    "plain": [(0, 2, 3), (1, 4, 2), (2, 1, 5), (3, 2, 1)],
    "same": [(0, 8, 3), (1, 2, 4), (2, 4, 1), (3, 1, 6)],
    "grouped": [(0, 2, 3), (1, 4, 1), (2, 1, 4), (3, 1, 2)],
    "up": [(0, 2, 3), (1, 3, 1), (2, 1, 4), (3, 3, 1)],
    "volume": [(0, 1, 2), (3, 1, 1), (0, 2, 2), (3, 1, 1)],
    "line": [(0, 3, 2), (3, 2, 2), (0, 1, 3), (3, 1, 4)],
    "attention.in_proj": [(0, 1, 2), None, (0, 1, 3), None],
    "attention.out_proj": [(0, 1, 2), (0, 1, 1), None, None],
    "table": [(0, 1, 2), None, (0, 1, 4), (0, 1, 1)],
    "wide": [(0, 3, 1), (0, 1, 4), (0, 2, 2), (0, 1, 3)],
}
"""For every layer, four choices of (scheme, k, j)."""

SUFFIXES = (".pt", ".safetensors")


@pytest.fixture(scope="module")
def reader():
    """What the page's reader defines."""
    names = {}
    blocks = [block for block in blocks_of(PAGE) if "reader" in block.marks]
    for block in blocks:
        exec(compile(block.text, block.place, "exec"), names)
    assert not any("alds" in block.text.replace('"alds"', "") for block in blocks)
    return names


@pytest.fixture
def everything(tmp_path, monkeypatch):
    """Build the network of all kinds of layers, with random weights."""
    name = f"every_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(EVERY_KIND, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    build = getattr(__import__(name), "Everything")  # noqa: B009 - of a module written just now

    def call(seed=0):
        torch.manual_seed(seed)
        network = build()
        network.norm.running_mean.normal_()
        network.norm.running_var.uniform_(0.5, 2)
        return network.eval()

    call.arch = f"{name}:Everything"
    return call


def without_norms(network):
    """The network with plain weights in the place of computed ones, as the page asks for."""
    remove_parametrizations(network.same, "weight")
    return network


def require_same_outputs(one, other, sample):
    torch.testing.assert_close(one(sample), other(sample), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("number", range(4))
def test_pairs_of_all_layers_and_schemes(reader, everything, tmp_path, number, suffix):
    choices = {name: Choice(*own[number]) for name, own in CHOICES.items() if own[number]}
    path = tmp_path / f"small{suffix}"
    source = alds_cli.Source(arch=everything.arch, input_shape=(4, 9, 8))
    alds_cli.compress(everything(), source, plan=Plan(choices), output=path)
    written = alds_cli.load(path, arch=everything.arch)
    document, tensors = reader["read"](path)
    assert document["shared"] == {"twin.weight": "narrow.weight"}
    assert tensors.keys() == written.state_dict().keys()
    assert all(torch.equal(tensors[name], own) for name, own in written.state_dict().items())

    sample = torch.rand(2, 4, 9, 8)
    dense = without_norms(everything(1))
    dense.load_state_dict(reader["multiply_back"](document, tensors, dense))
    require_same_outputs(dense, written, sample)
    if not any(name.startswith("attention") for name in choices):
        made = reader["load"](path, without_norms(everything(1)))
        assert torch.equal(made(sample), written(sample))


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "method", ["alds", "alds+", "alds-simple", "svd-energy", "messi", "ft", "l-rank"]
)
def test_what_every_kind_of_method_writes(reader, model, tmp_path, method, suffix):
    path = tmp_path / f"small{suffix}"
    report = alds_cli.compress(model, ratio="0.5", method=method, output=path).report
    written = alds_cli.load(path)
    document, tensors = reader["read"](path)
    assert document["plan"]["method"] == method
    assert sum(tensors[name].numel() for name, _ in written.named_parameters()) == (
        report.params_after
    )
    assert all(torch.equal(tensors[name], own) for name, own in written.state_dict().items())

    dense = digits_network(1)
    whole = reader["multiply_back"](document, tensors, dense)
    dense.load_state_dict(reader["put_back"](document, whole, dense))
    own = load_network(path, multiply_back=True).module.state_dict()
    assert whole.keys() == own.keys()
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(tensor, own[name], rtol=1e-5, atol=1e-6)
    sample = torch.rand(2, 1, 8, 8)
    require_same_outputs(dense, written, sample)
    if method not in {"messi", "ft"}:
        assert torch.equal(reader["load"](path, digits_network(1))(sample), written(sample))


def test_a_network_in_half_precision(reader, tmp_path):
    model, path = tmp_path / "model.pt", tmp_path / "small.safetensors"
    torch.save(digits_network().half().state_dict(), model)
    alds_cli.compress(model, ratio="0.5", output=path)
    made, written = reader["load"](path, digits_network(1).half()), alds_cli.load(path)
    assert {tensor.dtype for tensor in made.parameters()} == {torch.float16}
    sample = torch.rand(2, 1, 8, 8)
    assert torch.equal(made.float()(sample), written.float()(sample))


def test_the_reader_takes_about_twenty_lines():
    first = next(block for block in blocks_of(PAGE) if "reader" in block.marks)
    assert len(first.text.partition("def ")[2].splitlines()) <= 20
