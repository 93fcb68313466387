"""Texts as blocks of tokens: streams, lines and tensors."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_texts import LETTERS, WORDS, random_text, write_tokenizer

from alds_cli.datasets import Reading, TokenBatches, TokenBlocks, context_of, opened_samples
from alds_cli.datasets.texts import is_text
from alds_cli.datasets.token_blocks import TOKENS_TOGETHER
from alds_cli.errors import DataError, MissingExtraError, OptionError
from alds_cli.inputs import parse_inputs


def numbers(text):
    return [2 + LETTERS.index(letter) for letter in text]


@pytest.fixture
def reading(tmp_path):
    return Reading(tokenizer=write_tokenizer(tmp_path / "tokenizer.json"), context=4)


@pytest.mark.parametrize(("length", "blocks"), [(3, 1), (4, 1), (11, 2), (12, 3)])
def test_a_stream_is_cut_into_blocks_without_special_tokens(length, blocks, reading, tmp_path):
    text = random_text(length)
    (tmp_path / "text.txt").write_text(text)
    found = opened_samples(f"text:{tmp_path}/text.txt", reading)
    size = min(length, 4)
    assert found.ids.flatten().tolist() == numbers(text)[: blocks * size]
    assert found.ids.shape == (blocks, size)
    assert found.real is None
    assert found.vocabulary == WORDS
    assert str(found.inputs) == f"int64[1,{size}]<{WORDS}"


def test_lines_have_special_tokens_and_padding(reading, tmp_path):
    (tmp_path / "text.txt").write_text("ab\n\n   \nc\nabcdefgh\n")
    found = opened_samples(f"lines:{tmp_path}/text.txt", reading)
    rows = [row[real].tolist() for row, real in zip(found.ids, found.real, strict=True)]
    assert rows == [[1, *numbers("ab")], [1, *numbers("c")], [1, *numbers("abc")]]
    assert found.ids.shape == (3, 4)


def test_tensors_with_tokens_and_a_mask(tmp_path):
    ids = torch.arange(12, dtype=torch.int32).reshape(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    save_file({"input_ids": ids, "attention_mask": mask}, tmp_path / "a.safetensors")
    save_file({"input_ids": ids}, tmp_path / "b.safetensors")
    found = opened_samples(f"tensors:{tmp_path}/[ab].safetensors")
    assert torch.equal(found.ids, torch.cat([ids, ids]).long())
    assert torch.equal(found.real, torch.cat([mask == 1, torch.ones(3, 4) == 1]))
    assert found.vocabulary == 12
    whole = opened_samples(f"tensors:{tmp_path}/b.safetensors")
    assert whole.real is None
    assert whole.fingerprint() != found.fingerprint()


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"input_ids": torch.rand(2, 3)}, "float32"),
        ({"input_ids": torch.ones(2, 3, dtype=torch.bool)}, "bool"),
        ({"input_ids": torch.arange(3)}, r"shape \(3,\)"),
        ({"input_ids": torch.arange(6).view(2, 3) - 1}, "has the token -1"),
        ({"input_ids": torch.empty(0, 3, dtype=torch.int64)}, "holds no text"),
        (
            {"input_ids": torch.arange(6).view(2, 3), "attention_mask": torch.ones(3, 2)},
            "attention_mask",
        ),
        (
            {
                "input_ids": torch.arange(6).view(2, 3),
                "attention_mask": torch.tensor([[1, 1, 0], [0, 0, 0]]),
            },
            "nothing but padding",
        ),
    ],
)
def test_tensors_that_are_no_tokens_are_refused(tensors, complaint, tmp_path):
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=complaint):
        opened_samples(f"tensors:{tmp_path}/a.safetensors")


def test_files_of_other_lengths_are_not_joined(tmp_path):
    for length in (3, 4):
        save_file({"input_ids": torch.ones(2, length).long()}, tmp_path / f"{length}.safetensors")
    with pytest.raises(DataError, match="3 and 4 tokens"):
        opened_samples(f"tensors:{tmp_path}/*.safetensors")


@pytest.mark.parametrize(
    ("kind", "content", "complaint"),
    [
        ("text", b"", "holds no text"),
        ("lines", b"", "holds no text"),
        ("lines", b"\n  \n", "holds no text"),
        ("text", b"ab\xff", "no text in UTF-8"),
        ("lines", b"ab\xff", "no text in UTF-8"),
    ],
)
def test_files_without_text_are_refused(kind, content, complaint, reading, tmp_path):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        opened_samples(f"{kind}:{tmp_path}/text.txt", reading)


def asked(model, tokenizer=None):
    return SimpleNamespace(model=model, tokenizer=tokenizer, block_length=4)


def test_the_tokenizer_is_looked_for_beside_the_model(reading, tmp_path):
    (tmp_path / "text.txt").write_text("abcd")
    spec = f"text:{tmp_path}/text.txt"
    for model in (tmp_path, tmp_path / "model.pt"):
        assert len(opened_samples(spec, Reading.of(asked(model), None))) == 1
    assert len(opened_samples(spec, Reading(tokenizer=tmp_path, context=4))) == 1
    (tmp_path / "inner").mkdir()
    for model in (tmp_path / "inner" / "model.pt", "-"):
        with pytest.raises(OptionError, match="there is no tokenizer"):
            opened_samples(spec, Reading.of(asked(model, tmp_path / "inner"), None))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OptionError, match="is no tokenizer"):
        opened_samples(spec, reading)


def test_what_is_missing_is_named(reading, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("abcd")
    spec = f"text:{tmp_path}/text.txt"
    with pytest.raises(OptionError, match="how many tokens"):
        opened_samples(spec, Reading(tokenizer=reading.tokenizer))
    with pytest.raises(DataError, match="no such file"):
        opened_samples(f"lines:{tmp_path}/none.txt", reading)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError) as refusal:
        opened_samples(spec, reading)
    assert refusal.value.tip == "pip install 'alds-cli[transformers]'"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_batches_hold_every_token_once_and_are_as_long_as_their_longest_text(lengths, size):
    real = torch.arange(9) < torch.tensor(lengths)[:, None]
    ids = torch.arange(real.numel()).view(real.shape)
    batches = TokenBatches(TokenBlocks("texts", ids, real), batch_size=size)
    seen = []
    for inputs, labels in batches:
        assert len(inputs) == len(labels) <= size
        assert inputs.shape == inputs.mask.shape
        assert bool(inputs.mask.any(0)[-1])
        seen += inputs.ids[inputs.mask].tolist()
    assert seen == ids[real].tolist()
    assert len(batches) == -(-len(lengths) // size)


def test_batches_of_long_texts_are_small():
    blocks = TokenBlocks("texts", torch.zeros(5, TOKENS_TOGETHER // 2, dtype=torch.int64))
    assert TokenBatches(blocks, batch_size=64).sizes == [2, 2, 1]
    with pytest.raises(OptionError):
        TokenBatches(blocks, batch_size=0)


@pytest.mark.parametrize(
    ("spec", "length"),
    [
        ("ids:int64[1,128]<30,mask:float[1,128]", 128),
        ("mask:float[1,7],ids:int32[1,5]", 5),
        ("float[1,3,8,8]", None),
    ],
)
def test_the_length_of_texts_is_that_of_the_input(spec, length):
    assert context_of(parse_inputs(spec)) == length
    assert context_of(None) is None


def test_only_texts_are_text(tmp_path):
    assert is_text("text:a")
    assert is_text("lines:a")
    assert not is_text("imagefolder:a")
    assert not is_text(None)
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    assert not is_text(f"tensors:{tmp_path}/a.safetensors")
