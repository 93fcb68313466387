"""Perplexity of language models, their comparison, and their compression by texts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import stats
from small_texts import WORDS, Encoder, Words, language_network, random_text, write_tokenizer
from torch import nn

import alds_cli
from alds_cli.datasets import TokenBatches, TokenBlocks, texts
from alds_cli.errors import DataError, NoLogitsError, OptionError
from alds_cli.evaluation.language import foretells, measure_texts
from alds_cli.evaluation.paired import mean_rise
from alds_cli.tracing.tokens import Tokens, call

FACTORY = ("--arch", "small_texts:Words")


def draw_texts(count, length, seed=0, lengths=None):
    ids = torch.randint(WORDS, (count, length), generator=torch.Generator().manual_seed(seed))
    if lengths is None:
        return TokenBlocks("texts", ids)
    return TokenBlocks("texts", ids, torch.arange(length) < torch.tensor(lengths)[:, None])


def losses_one_by_one(network, blocks):
    """The loss of every token but the first of each text, each found by itself."""
    found = []
    real = torch.ones_like(blocks.ids) == 1 if blocks.real is None else blocks.real
    for ids, mask in zip(blocks.ids, real, strict=True):
        text = ids[mask]
        for at in range(1, len(text)):
            with torch.no_grad():
                logits = network(text[None, :at])["logits"][0, -1].double()
            found.append(-float(logits.log_softmax(0)[text[at]]))
    return found


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 4))
def test_the_loss_is_that_of_each_token_after_those_before_it(lengths, size):
    blocks = draw_texts(len(lengths), 7, lengths=lengths)
    network = language_network()
    expected = losses_one_by_one(network, blocks)
    batches = TokenBatches(blocks, batch_size=size)
    if not expected:
        with pytest.raises(DataError, match="no text has a second token"):
            measure_texts({"model": network}, batches)
        return
    found = measure_texts({"model": network}, batches).qualities["model"]
    assert found.loss == pytest.approx(np.mean(expected), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert (found.tokens, found.blocks) == (len(expected), len(lengths))


class Plain(Words):
    """Gives logits as a tensor."""

    def answer(self, states):
        return self.head(states)


class Named:
    """An output with parts, as those of Hugging Face's models are."""

    def __init__(self, logits):
        self.logits = logits


class Parts(Words):
    """Gives logits as a part of an object."""

    def answer(self, states):
        return Named(self.head(states))


class Pair(Words):
    """Gives logits first of several outputs."""

    def answer(self, states):
        return self.head(states), states


@pytest.mark.parametrize("kind", [Plain, Parts, Pair])
def test_logits_are_found_in_every_kind_of_output(kind):
    blocks = draw_texts(3, 5)
    batches = TokenBatches(blocks, batch_size=2)
    expected = measure_texts({"model": language_network()}, batches)
    assert measure_texts({"model": language_network(kind=kind)}, batches) == expected


def test_only_networks_that_see_no_later_tokens_foretell():
    inputs = Tokens(torch.tensor([[3, 4, 5, 0], [2, 2, 2, 2]]))
    causal = language_network()
    assert foretells(lambda own: causal(own.ids), inputs)
    for kind in (Encoder, lambda: Words(causal=False)):
        network = language_network(kind=kind)
        with pytest.raises(DataError, match="does not foretell") as refusal:
            measure_texts({"model": network}, [(inputs, torch.full((2,), -1))])
        assert "--baseline" in refusal.value.tip


def test_encoders_are_compared_by_the_cosine_of_their_states():
    blocks = draw_texts(4, 6, lengths=[6, 2, 1, 4])
    networks = {name: language_network(at, Encoder) for at, name in enumerate("ab")}
    found = measure_texts(networks, TokenBatches(blocks, batch_size=3))
    assert found.qualities == {"a": None, "b": None}
    cosines = []
    for ids, real in zip(blocks.ids, blocks.real, strict=True):
        one, other = (
            own(ids[real][None])["last_hidden_state"][0].detach() for own in networks.values()
        )
        cosines += nn.functional.cosine_similarity(one, other, dim=1).tolist()
    assert found.comparison.cosine == pytest.approx(np.mean(cosines), abs=1e-6)
    assert found.comparison.agreement is None
    same = {"a": networks["a"], "b": networks["a"]}
    again = measure_texts(same, TokenBatches(blocks, batch_size=3)).comparison
    assert again.cosine == pytest.approx(1, abs=1e-9)


def test_the_difference_and_agreement_of_two_language_models():
    blocks = draw_texts(5, 6, lengths=[6, 5, 4, 6, 2])
    one, other = language_network(0), language_network(1)
    found = measure_texts({"model": one, "baseline": other}, TokenBatches(blocks, batch_size=2))
    losses = [np.mean(losses_one_by_one(own, blocks)) for own in (one, other)]
    compared = found.comparison
    assert compared.difference == pytest.approx(losses[0] - losses[1], rel=1e-4)
    assert compared.difference_low < compared.difference < compared.difference_high
    same = total = 0
    for ids, real in zip(blocks.ids, blocks.real, strict=True):
        both = [own(ids[real][None])["logits"][0].argmax(1) for own in (one, other)]
        same, total = same + int((both[0] == both[1]).sum()), total + int(real.sum())
    assert compared.agreement == pytest.approx(100 * same / total)
    assert compared.images == 5


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=30), st.integers(1, 9))
def test_of_equal_blocks_the_interval_is_students(values, count):
    sums, counts = torch.tensor(values).double() * count, torch.full((len(values),), count)
    mean, low, high = mean_rise(sums, counts).with_interval
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = stats.t.ppf(0.975, len(values) - 1) * error
    np.testing.assert_allclose([low, high], [mean - reach, mean + reach], rtol=1e-4, atol=1e-4)
    assert math.isinf(mean_rise(sums[:1], counts[:1]).error)


def test_intervals_of_ratios_cover_the_truth():
    """Blocks of different lengths, whose tokens differ by 0.3 on average."""
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        counts = draw.integers(1, 50, 60)
        sums = [draw.normal(0.3, 1, own).sum() + draw.normal(0, 2) for own in counts]
        _, low, high = mean_rise(torch.tensor(sums), torch.tensor(counts)).with_interval
        covered += low <= 0.3 <= high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a checkpoint, its tokenizer and a text."""
    monkeypatch.chdir(tmp_path)
    save_file(language_network().state_dict(), "model.safetensors")
    write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "text.txt").write_text(random_text(400))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_a_file_of_tokens_is_looked_into_once_and_read_once(monkeypatch):
    save_file({"input_ids": draw_texts(4, 6).ids}, "tokens.safetensors")
    opened = []

    def counting(path, **options):
        opened.append(path)
        return safe_open(path, **options)

    monkeypatch.setattr(texts, "safe_open", counting)
    source = alds_cli.Source("small_texts:Words")
    found = alds_cli.evaluate(
        "model.safetensors", "tensors:tokens.safetensors", source, latency=False
    )
    assert found.model.language.perplexity > 1
    assert len(opened) == 2


@pytest.mark.usefixtures("folder")
def test_a_compressed_language_model_beside_its_baseline(run):
    asked = ("--data", "text:text.txt", "--block-length", "10")
    code, _, err = run(
        "compress", "model.safetensors", *FACTORY, *asked, "-r", "0.2", "--refit", "-o", "small.pt"
    )
    assert code == 0, err
    code, out, err = run(
        *("evaluate", "small.pt", *FACTORY, *asked, "--baseline", "model.safetensors"),
        *("--json", "--latency-batch-size", "2"),
    )
    assert code == 0, err
    told = json.loads(out)
    assert (told["images"], told["tokens"], told["top1"]) == (40, 360, None)
    assert told["perplexity"] == pytest.approx(math.exp(told["loss"]))
    assert told["params"] < told["baseline"]["params"]
    assert told["macs"] < told["baseline"]["macs"]
    assert told["latency"]["batch_size"] == 2
    assert told["preprocessing"] is None
    apart = told["loss"] - told["baseline"]["loss"]
    assert told["comparison"]["difference"] == pytest.approx(apart, abs=1e-9)
    code, out, _ = run("evaluate", "small.pt", *FACTORY, *asked, "--no-latency")
    assert code == 0
    assert "perplexity" in out
    assert "360 tokens foretold" in out


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("kind", ["text", "lines"])
@pytest.mark.parametrize("method", ["alds-data", "alds-fisher", "balf", "pca", "auto"])
def test_methods_that_look_at_data_take_texts(method, kind, folder):
    (folder / "lines.txt").write_text("\n".join(random_text(n, n) for n in range(1, 12)))
    data = {"text": "text:text.txt", "lines": "lines:lines.txt"}[kind]
    found = alds_cli.compress(
        language_network(),
        ratio=0.2,
        method=method,
        data=data,
        block_length=10,
        tokenizer=folder,
        cache=False,
    )
    assert found.report.verified
    assert found.report.ratio >= 0.2


def test_factors_made_for_texts_suit_them_better_than_others(folder):
    """Words of two letters alone; the weights themselves are random."""
    (folder / "text.txt").write_text("ab" * 200)
    losses = {}
    for method in ("alds-data", "svd"):
        small = alds_cli.compress(
            language_network(),
            ratio=0.3,
            method=method,
            data="text:text.txt",
            block_length=10,
            tokenizer=folder,
            source=alds_cli.Source(input_spec=f"int64[1,10]<{WORDS}"),
        ).network
        ids = torch.tensor([[2, 3] * 5])
        both = {"small": small.module, "model": language_network()}
        compared = measure_texts(both, TokenBatches(TokenBlocks("", ids), batch_size=1)).comparison
        losses[method] = abs(compared.difference)
    assert losses["alds-data"] < losses["svd"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tokenizer", "none.json"), "there is no tokenizer none.json"),
        (("--block-length", "17"), "--block-length within its context"),
        (("--data", "lines:none.txt"), "none.txt: no such file"),
    ],
)
def test_what_cannot_be_done_with_texts_is_told(arguments, complaint, folder, run):
    code, _, err = run(
        *("compress", "model.safetensors", *FACTORY, "--data", "text:text.txt"),
        *("--block-length", "10", "-r", "0.2", "-o", "small.pt", *arguments),
    )
    assert code == 2
    assert complaint in " ".join(err.split())
    assert not (folder / "small.pt").exists()


def test_methods_are_not_compared_by_states(folder):
    asked = {"data": "text:text.txt", "tokenizer": folder, "block_length": 10, "ratio": 0.2}
    encoder = language_network(kind=Encoder)
    with pytest.raises(NoLogitsError, match="no methods can be compared by the answers") as refusal:
        alds_cli.compress(encoder, **asked)
    assert refusal.value.tip == "--method alds-data, balf or pca"
    with pytest.raises(NoLogitsError, match="for 1 text, not logits") as refusal:
        alds_cli.compress(encoder, method="alds-data", refit=True, **asked)
    assert refusal.value.tip == "leave out --refit"
    assert alds_cli.compress(encoder, method="alds-data", **asked).report.verified


def test_drops_in_points_are_not_those_of_texts(folder):
    asked = {"data": "text:text.txt", "tokenizer": folder, "block_length": 10}
    with pytest.raises(OptionError, match="--max-drop bounds points of top-1") as told:
        alds_cli.compress(language_network(), max_drop=1.0, **asked)
    assert "--max-loss-rise" in told.value.tip
    with pytest.raises(OptionError, match="text has none") as refusal:
        alds_cli.evaluate(language_network(), baseline=language_network(1), max_drop=1, **asked)
    assert "--max-loss-rise" in refusal.value.tip


@pytest.mark.usefixtures("folder")
def test_images_are_asked_for_where_texts_are_of_no_use(run):
    code, _, err = run(
        *("iterate", "model.safetensors", *FACTORY, "--data", "text:text.txt", "--steps", "1"),
        *("--to", "0.3", "--preprocess", "half", "-o", "better.pt"),
    )
    assert code == 2
    assert "is text, and images are needed here" in err


class Decoding(Words):
    """A network that decodes another text than it encodes, and says so as T5 does."""

    def forward(self, input_ids, attention_mask=None, decoder_input_ids=None):
        if decoder_input_ids is None:
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        return super().forward(input_ids + 0 * decoder_input_ids, attention_mask)


class Hearing(Words):
    """A network of sounds."""

    def forward(self, input_features):
        return self.head(input_features.movedim(1, 2))


class Masked(Words):
    """A network that needs the mask under a name of its own."""

    def forward(self, ids, mask):
        return super().forward(ids, mask)


class Deriving(Decoding):
    """A network that decodes what it encodes where nothing else is said, as BART does."""

    def forward(self, input_ids, attention_mask=None, decoder_input_ids=None):
        del decoder_input_ids
        return Words.forward(self, input_ids, attention_mask)


BESIDE = {
    Decoding: "another one to decode (decoder_input_ids)",
    Hearing: "sounds (input_features)",
    Masked: "mask",
}


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("real", [None, torch.ones(2, 8, dtype=torch.bool)], ids=["", "masked"])
def test_a_network_that_takes_more_than_a_text_is_told(kind, real):
    given = Tokens(torch.zeros(2, 8, dtype=torch.int64), real)
    network = language_network(kind=kind)
    with pytest.raises(DataError) as caught:
        call(network, given, torch.device("cpu"), torch.float32)
    assert caught.value.message == f"the network takes more than a text: {BESIDE[kind]}"
    assert "without data" in caught.value.tip


def test_a_text_that_is_too_long_is_another_matter():
    network = language_network(kind=Deriving)
    given = Tokens(torch.zeros(2, 20, dtype=torch.int64))  # of 16 places
    with pytest.raises(IndexError):
        call(network, given, torch.device("cpu"), torch.float32)
    call(network, Tokens(given.ids[:, :9]), torch.device("cpu"), torch.float32)
