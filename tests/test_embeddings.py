"""Pairs in the place of embeddings: exact, counted, closest on what is looked up, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_texts import LETTERS, WORDS, language_network
from torch import nn

import alds_cli
from alds_cli.api import compress
from alds_cli.calibration.input_moments import OTHER_INDICES, gather_input_moments
from alds_cli.inputs import parse_inputs
from alds_cli.latency.configurations import Filler, configurations_of
from alds_cli.numerics.data_norm import data_curves, data_factors
from alds_cli.numerics.fold import option_macs
from alds_cli.records import Choice
from alds_cli.surgery import find_layers, make_pair, reshape_network
from alds_cli.tracing.tokens import Tokens
from alds_cli.tracing.trace import trace

VOCABULARY = 60


class Table(nn.Module):
    """An embedding, and a linear layer on what it gives."""

    def __init__(self, **options):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 16, **options)
        self.head = nn.Linear(16, 5)

    def forward(self, ids):
        return self.head(self.words(ids))


class Tied(Table):
    """A network whose embedding also gives its answers."""

    def __init__(self):
        super().__init__()
        self.answer = nn.Linear(16, VOCABULARY, bias=False)
        self.answer.weight = self.words.weight

    def forward(self, ids):
        return self.answer(self.words(ids))


class Reading(Table):
    """A network that reads the embedding's weight itself."""

    def forward(self, ids):
        return self.words(ids) @ self.words.weight.T


def ids_of(*shape):
    return parse_inputs(f"ids:int64[{','.join(map(str, shape))}]<{VOCABULARY}")


def table(kind=Table, **options):
    torch.manual_seed(0)
    return kind(**options).eval()


def compressed(network, **options):
    source = alds_cli.Source(input_spec=f"int64[1,7]<{VOCABULARY}")
    return compress(network, source=source, cache=False, **options)


def test_a_pair_of_an_embedding_is_its_truncated_decomposition():
    network = table()
    made = compressed(network, ratio=0.4, include=["words"]).network.module
    choice = made.words.first.embedding_dim
    weight = network.words.weight.detach().double()
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    best = (left[:, :choice] * values[:choice]) @ right[:choice]
    pair = made.words.first.weight.double() @ made.words.second.weight.double().T
    torch.testing.assert_close(pair, best, atol=1e-5, rtol=0)
    ids = torch.arange(VOCABULARY)[None]
    torch.testing.assert_close(made.words(ids)[0].double(), best, atol=1e-5, rtol=0)


def test_an_artefact_with_an_embedding_pair_runs_and_removes_what_it_says(tmp_path):
    network = table()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    path = tmp_path / "small.pt"
    source = alds_cli.Source(arch=f"{__name__}:Table", input_spec=f"int64[1,7]<{VOCABULARY}")
    made = compress(tmp_path / "model.pt", source=source, cache=False, ratio=0.5, output=path)
    loaded = alds_cli.load(path, allow_pickle=True)
    assert type(loaded.words) is nn.Sequential
    rank = loaded.words.first.embedding_dim
    assert loaded.words.first.weight.shape == (VOCABULARY, rank)
    before, after = (sum(p.numel() for p in own.parameters()) for own in (network, loaded))
    assert after <= before / 2
    ids = torch.randint(VOCABULARY, (3, 7))
    torch.testing.assert_close(loaded.eval()(ids), made.network.module.eval()(ids))


def test_indices_that_are_padding_stay_so():
    pair = make_pair(table(padding_idx=3).words, Choice(0, 1, 4), device="cpu")
    assert pair.first.padding_idx == 3
    assert pair.second.bias is None


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (table(max_norm=1.0), "max_norm"),
        (table(Tied), "shared with another layer"),
        (table(Reading), "reads its weight"),
    ],
)
def test_embeddings_that_are_more_than_tables_are_kept(network, reason):
    spec = find_layers(network, trace(network, ids_of(1, 7)))["words"]
    assert spec.kind == "embedding"
    assert reason in str(spec.reason)


def test_the_macs_of_a_pair_are_those_of_its_second_half():
    network = table()
    seen = trace(network, ids_of(1, 7))
    spec = find_layers(network, seen)["words"]
    assert seen.calls["words"].macs == 0
    choice = Choice(0, 1, 4)
    counted = option_macs(spec, seen.calls["words"].shapes, np.array([[0, 1, 4]]))
    before = seen.macs
    reshape_network(network, {"words": choice})
    assert trace(network, ids_of(1, 7)).macs - before == counted[0] == 7 * 4 * 16


def test_an_embedding_has_one_slice():
    spec = find_layers(table(), None)["words"]
    assert spec.max_slices == 1
    assert spec.weight_shape == (16, VOCABULARY)


def gathered(network, batches):
    return gather_input_moments(network, find_layers(network, None), batches)


def test_indices_are_counted_as_they_are_looked_up():
    batches = [
        (torch.tensor([[1, 1, 2]]), torch.zeros(1)),
        (torch.tensor([[5, 1, 2]]), torch.zeros(1)),
    ]
    found = gathered(table(), batches)["words"]
    assert found.count == 6
    assert found.absorber is None
    expected = torch.zeros(VOCABULARY, dtype=torch.float64)
    expected[[1, 2, 5]] = torch.tensor([3, 2, 1], dtype=torch.float64) / 6
    torch.testing.assert_close(found.mean[0], expected)
    shares = found.moments
    assert shares.shape == (1, VOCABULARY)
    assert float(shares.sum()) == pytest.approx(1)
    assert float(shares[0, 9]) == pytest.approx(OTHER_INDICES / VOCABULARY)


def test_padding_is_not_looked_up():
    ids = torch.tensor([[2, 3, 0, 0], [4, 5, 6, 0]])
    real = torch.tensor([[True, True, False, False], [True, True, True, False]])
    found = gathered(language_network(), [(Tokens(ids, real), torch.zeros(2))])
    assert found["embedding"].count == 5
    assert float(found["embedding"].mean[0, 0]) == 0
    assert found["places"].count == 4  # places do not depend on the text


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1, 2]))
def test_a_diagonal_of_moments_means_what_the_matrix_means(seed, j, k):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(6, 10, 1, generator=generator, dtype=torch.float64)
    shares = torch.rand(1, 10, generator=generator, dtype=torch.float64)
    whole = torch.diag_embed(shares)
    norm, curves = data_curves(matrix, shares, [1, 2])
    wanted_norm, wanted = data_curves(matrix, whole, [1, 2])
    assert norm == pytest.approx(wanted_norm)
    for slices, curve in curves.items():
        np.testing.assert_allclose(curve.tail_energy, wanted[slices].tail_energy, atol=1e-9)
    rank = min(j, 10 // k)
    found = data_factors(matrix, shares, k, rank)
    best = data_factors(matrix, whole, k, rank)
    assert found.error <= best.error + 1e-9
    if k == 1:
        spectrum = torch.linalg.svdvals(matrix[..., 0] * shares[0].sqrt())
        lost = spectrum[rank:].square().sum() / spectrum.square().sum()
        assert found.error == pytest.approx(float(lost.sqrt()), abs=1e-6)


def test_with_texts_the_words_in_use_are_kept_best(tmp_path):
    """Of an embedding whose words have nothing in common, those that are never met are given up."""
    texts = tmp_path / "texts.txt"
    texts.write_text("abc\n" * 20, encoding="utf-8")
    network = language_network()
    with torch.no_grad():
        network.embedding.weight.copy_(torch.eye(WORDS, 12) * 2)
    ids = torch.tensor([[2 + LETTERS.index(letter) for letter in "abc"]] * 8)
    data = tmp_path / "tokens.safetensors"
    from safetensors.torch import save_file  # noqa: PLC0415 - one test writes a file of tokens

    save_file({"input_ids": ids}, data)
    made = compress(
        network,
        ratio=0.05,
        include=["embedding"],
        method="alds-data",
        data=f"tensors:{data}",
        source=alds_cli.Source(input_spec=f"int64[1,3]<{WORDS}"),
        cache=False,
    ).network.module
    with torch.no_grad():
        lost = (made.embedding(torch.arange(WORDS)) - network.embedding.weight).norm(dim=1)
    seen = torch.unique(ids)
    unseen = [word for word in range(WORDS) if word not in seen]
    assert float(lost[seen].max()) < 1e-3
    assert float(lost[unseen].max()) > 0.1


def test_lookups_can_be_timed():
    network = table()
    call = trace(network, ids_of(1, 7)).calls["words"]
    device = torch.device("cpu")
    found = configurations_of(network.words, "embedding", call, 4, device)
    (configuration,) = found
    filler = Filler(device)
    ids = configuration.inputs(filler)
    assert ids.shape == (4, 7)
    assert 0 <= int(ids.min()) <= int(ids.max()) < VOCABULARY
    for module in (configuration.layer(), configuration.pair(Choice(0, 1, 2))):
        assert filler.fill(module)(ids).shape == (4, 7, 16)
