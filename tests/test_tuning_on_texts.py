"""Tuning of networks of text towards their originals."""

from __future__ import annotations

import os
import re
import signal

import pytest
import torch
from safetensors.torch import save_file
from small_texts import (
    WORDS,
    Encoder,
    Words,
    language_network,
    random_text,
    write_tokenizer,
)
from torch.nn import functional as F

from alds_cli import api
from alds_cli.compression import tuning
from alds_cli.datasets import TokenBlocks
from alds_cli.options.model_source import Source
from alds_cli.retraining.answer_errors import AnswerErrors
from alds_cli.retraining.block_outputs import BlockOutputs
from alds_cli.retraining.tuned_steps import Recipe
from alds_cli.tracing.tokens import Tokens

KINDS = pytest.mark.parametrize("kind", [Words, Encoder])
LENGTHS = torch.tensor([3, 7, 5])
DEVICE = torch.device("cpu")


def texts_of(count=60):
    """Texts of one to ten tokens, padded."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 11, (count, 1), generator=generator)
    ids = torch.randint(WORDS, (count, 10), generator=generator)
    return TokenBlocks("texts", ids, torch.arange(10) < lengths)


def compressed(kind, **options):
    asked = {"data": texts_of(), "method": "alds-data", "ratio": 0.3, "cache": False, **options}
    source = Source(input_spec=f"int64[1,10]<{WORDS}")
    return api.compress(language_network(kind=kind), source=source, device="cpu", **asked)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Tune with small batches, so that few texts make several steps of a round."""
    monkeypatch.setattr(tuning, "recipe_for_texts", lambda: Recipe(batch_size=12))


def padded(length, garbage):
    """Three texts, with some token at the padding behind them."""
    ids = torch.randint(WORDS, (3, 7), generator=torch.Generator().manual_seed(0))
    real = torch.arange(length) < LENGTHS[:, None]
    return Tokens(F.pad(ids, (0, length - 7)).masked_fill(~real, garbage), real)


def compared(kind, inputs):
    """The loss on texts, that of blocks, and how alike the answers for each text are."""
    one, other = (language_network(seed, kind) for seed in (0, 1))
    errors = AnswerErrors(2.0, states=kind is Encoder)
    blocks = BlockOutputs(["wide", "narrow"])
    blocks.inputs = inputs
    with blocks.watching(one, other), torch.no_grad():
        expected, answers = (
            errors.answers(own(inputs.ids, inputs.real.long()), inputs) for own in (one, other)
        )
    return errors.loss(answers, expected), blocks.error(), errors.likeness(answers, expected)


@KINDS
def test_padding_has_no_influence(kind):
    found = compared(kind, padded(7, 2))
    for length, garbage in ((7, 5), (11, 2), (16, 9)):
        torch.testing.assert_close(compared(kind, padded(length, garbage)), found)


@KINDS
def test_each_token_counts_alike(kind):
    """By the answers for each text alone, without any padding."""
    inputs, key = padded(7, 0), "logits" if kind is Words else "last_hidden_state"
    with torch.no_grad():
        theirs, ours = (
            [
                language_network(seed, kind)(ids[None, :own])[key][0]
                for ids, own in zip(inputs.ids, LENGTHS, strict=True)
            ]
            for seed in (0, 1)
        )
    loss, _, alike = compared(kind, inputs)
    expected, answers = torch.cat(theirs), torch.cat(ours)
    if kind is Words:
        softened = (expected / 2).softmax(1), (answers / 2).softmax(1)
        wanted = 4 * (softened[0] * (softened[0] / softened[1]).log()).sum(1).mean()
        each = [
            (a.argmax(1) == b.argmax(1)).double().mean() for a, b in zip(ours, theirs, strict=True)
        ]
    else:
        wanted = (answers - expected).square().sum() / expected.square().sum()
        each = [
            ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).double().mean()
            for a, b in zip(ours, theirs, strict=True)
        ]
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(alike, torch.stack(each))


@KINDS
def test_answers_come_nearer_to_the_original(kind):
    found = compressed(kind, tune_steps=20).report.tuning
    assert found.loss_after < found.loss_before
    if kind is Words:
        assert found.cosine_before is found.cosine_after is None
        assert 0 <= found.agreement_before <= 100
    else:
        assert found.agreement_before is found.agreement_after is None
        assert -1 <= found.cosine_before < found.cosine_after <= 1


def test_the_cosine_is_that_of_the_network_that_is_returned():
    made, texts = compressed(Encoder, tune_steps=8), texts_of()
    held, _ = tuning.divided(len(texts), tuning.recipe_for_texts(), 0)
    judges, cosines = texts.subset(held), []
    for ids, real in zip(judges.ids, judges.real, strict=True):
        with torch.no_grad():
            ours, theirs = (
                own(ids[None, real])["last_hidden_state"][0].double()
                for own in (made.network.module, language_network(kind=Encoder))
            )
        cosines.append(float(F.cosine_similarity(ours, theirs, dim=1).mean()))
    assert made.report.tuning.held_back == len(held)
    assert made.report.tuning.cosine_after == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)


@pytest.mark.usefixtures("heeded_interrupts")
def test_an_interrupted_tuning_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("ALDS_CACHE_DIR", str(tmp_path))
    whole = compressed(Encoder, tune_steps=12)

    def interrupt(event):
        if event.task == "tune" and event.done == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        compressed(Encoder, tune_steps=12, cache=True, progress=interrupt)
    events = []
    resumed = compressed(Encoder, tune_steps=12, cache=True, progress=events.append)
    assert [event.done for event in events if event.task == "tune"] == [*range(8, 13)]
    assert resumed.report.tuning.cosine_after == whole.report.tuning.cosine_after
    for name, value in resumed.network.module.state_dict().items():
        assert torch.equal(value, whole.network.module.state_dict()[name]), name


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Words, r"agreement with the original \d+\.\d\d → \d+\.\d\d %"),
        (Encoder, r"mean cosine with the original's states -?\d\.\d{4} → \d\.\d{4}"),
    ],
)
def test_the_command_tells_what_it_tuned(kind, told, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    save_file(language_network(kind=kind).state_dict(), "model.safetensors")
    write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "text.txt").write_text(random_text(400))
    code, out, err = run(
        *("compress", "model.safetensors", "--arch", f"small_texts:{kind.__name__}"),
        *("--data", "text:text.txt", "--block-length", "10", "--method", "alds-data"),
        *("-r", "0.2", "--tune-steps", "8", "-o", "small.pt"),
    )
    assert code == 0, err
    assert re.search(f"tuned: loss .*{told} on 4 samples held back", " ".join((out + err).split()))
