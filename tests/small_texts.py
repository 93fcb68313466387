"""A small causal network, an encoder and a tokenizer of characters, for tests on texts."""

from __future__ import annotations

import json

import torch
from torch import nn

LETTERS = "abcdefgh "

WORDS = len(LETTERS) + 2
"""The letters, [UNK] and [CLS]."""


class Words(nn.Module):
    """Attention over words, of which each sees only those before it, if it is causal."""

    def __init__(self, causal=True):
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(WORDS, 12)
        self.places = nn.Embedding(16, 12)
        self.query = nn.Linear(12, 12)
        self.wide = nn.Linear(12, 24)
        self.narrow = nn.Linear(24, 12)
        self.head = nn.Linear(12, WORDS)

    def forward(self, ids, attention_mask=None):
        states = self.embedding(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        scores = self.query(states) @ states.mT
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None] == 0, float("-inf"))
        if self.causal:
            later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        states = states + scores.softmax(-1) @ states
        return self.answer(states + self.narrow(torch.relu(self.wide(states))))

    def answer(self, states):
        return {"logits": self.head(states)}


class Encoder(Words):
    """Gives states of words, and no logits."""

    def __init__(self):
        super().__init__(causal=False)

    def answer(self, states):
        return {"last_hidden_state": self.head(states)}


def language_network(seed=0, kind=Words):
    torch.manual_seed(seed)
    return kind().eval()


def write_tokenizer(path):
    """Write a tokenizer of letters that begins every text with [CLS], where it is asked to."""
    letters = {"[UNK]": 0, "[CLS]": 1} | {own: 2 + at for at, own in enumerate(LETTERS)}
    first = {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}
    content = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": 1,
                "content": "[CLS]",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "."},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"[CLS]": first},
        },
        "model": {"type": "WordLevel", "vocab": letters, "unk_token": "[UNK]"},
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def random_text(length, seed=0):
    draws = torch.randint(len(LETTERS), (length,), generator=torch.Generator().manual_seed(seed))
    return "".join(LETTERS[own] for own in draws.tolist())
