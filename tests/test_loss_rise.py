"""Bounds on the rise of the loss on texts: the gate of an evaluation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import stats
from small_texts import WORDS, Encoder, Words, language_network, random_text, write_tokenizer

import alds_cli
from alds_cli.datasets import TokenBlocks
from alds_cli.errors import DataError, OptionError
from alds_cli.evaluation import Bounds
from alds_cli.evaluation.language import Foretold
from alds_cli.records import Footprint

COST = Footprint(1, 1, 1, None)


# ---------------------------------------------------------------- the statistics


TEXTS = st.lists(
    st.tuples(st.integers(1, 20), st.floats(0, 9), st.floats(0, 9)), min_size=2, max_size=20
)


@limits(deadline=None)
@given(TEXTS, st.floats(0, 2), st.sampled_from([0.05, 0.5, 0.8, 0.95]))
def test_a_rise_is_judged_by_the_end_of_students_interval(texts, allowed, confidence):
    counts = np.array([own for own, _, _ in texts], dtype=float)
    after, before = (np.array([own[at] * own[0] for own in texts]) for at in (1, 2))
    rise = Foretold(list(after), list(counts)).rise(Foretold(list(before), list(counts)))
    (gate,) = Bounds({}, None, confidence, allowed).judged(COST, None, "loss", rise)
    mean = (after - before).sum() / counts.sum()
    spread = ((after - before - mean * counts) ** 2).sum() * len(texts) / (len(texts) - 1)
    error = math.sqrt(spread) / counts.sum()
    quantile = stats.t.ppf(confidence, len(texts) - 1)
    near = {"rel": 1e-6, "abs": 1e-6}
    assert (gate.name, gate.of, gate.bound) == ("loss_rise", "loss", allowed)
    assert gate.figure == pytest.approx(mean, **near)
    assert gate.judged == pytest.approx(mean - quantile * error, **near)
    power = stats.t.ppf(0.95, len(texts) - 1)
    assert gate.found_from == pytest.approx(allowed + (quantile + power) * error, **near)
    assert gate.passed == (gate.judged <= allowed)


def test_a_rise_that_is_allowed_fails_in_about_5_of_100_samples():
    draw, failed = np.random.default_rng(0), 0
    for _ in range(1000):
        counts = draw.integers(1, 40, 80)
        before = counts * draw.normal(3, 1, 80)
        after = before + counts * 0.1 + draw.normal(0, 1, 80) * np.sqrt(counts)
        rise = Foretold(list(after), list(counts)).rise(Foretold(list(before), list(counts)))
        (gate,) = Bounds({}, None, 0.95, 0.1).judged(COST, None, "loss", rise)
        failed += not gate.passed
    assert 30 <= failed <= 75


# ---------------------------------------------------------------- the gate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = language_network().state_dict()
    save_file(weights, "baseline.safetensors")
    save_file({**weights, "head.weight": 3 * weights["head.weight"]}, "model.safetensors")
    write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "text.txt").write_text(random_text(800))
    return tmp_path


ASKED = (
    "model.safetensors",
    "--arch",
    "small_texts:Words",
    "--data",
    "text:text.txt",
    "--block-length",
    "10",
    "--no-latency",
)


@pytest.mark.usefixtures("folder")
def test_the_command_fails_where_the_loss_is_shown_to_rise(run):
    asked = ("evaluate", *ASKED, "--baseline", "baseline.safetensors")
    code, out, err = run(*asked, "--max-loss-rise", "100", "--json")
    assert code == 0, err
    told = json.loads(out)
    (gate,) = told["gates"]
    assert gate["figure"] == pytest.approx(told["comparison"]["difference"])
    assert gate["judged"] < gate["figure"]
    assert (gate["name"], gate["of"], gate["passed"]) == ("loss_rise", "loss", True)
    bound = gate["judged"] - 1e-3
    code, out, err = run(*asked, "--max-loss-rise", f"{bound:.6f}", "--junit", "gates.xml")
    assert code == 1
    assert f"the rise of the loss is {gate['figure']:.4f} nats per token" in err
    assert "with 95 % confidence), and only" in err
    assert "rise of the loss" in out
    assert "a true rise of" in " ".join(out.split())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--max-loss-rise", "0.1"), "a rise of the loss is measured against another network"),
        (("--max-loss-rise", "-1"), "--max-loss-rise is a number"),
        (("--max-drop", "1", "--baseline", "baseline.safetensors"), "--max-loss-rise 0.05 bounds"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_judged_is_refused(run, more, told):
    code, out, err = run("evaluate", *ASKED, *more)
    assert (code, out) == (2, "")
    assert told in err


def test_bounds_on_what_is_not_told_are_refused(digits):
    words, others = language_network(), language_network(1)
    texts = TokenBlocks("texts", torch.randint(WORDS, (4, 10)))
    with pytest.raises(DataError, match="texts is one text"):
        alds_cli.evaluate(
            words, texts.subset(torch.tensor([0])), baseline=others, max_loss_rise=0.1
        )
    encoders = [language_network(seed, Encoder) for seed in (0, 1)]
    with pytest.raises(DataError, match="does not foretell text, so that it has no loss"):
        alds_cli.evaluate(encoders[0], texts, baseline=encoders[1], max_loss_rise=0.1)
    with pytest.raises(OptionError, match="images have no tokens") as refusal:
        alds_cli.evaluate(
            digits / "model.pt",
            f"tensors:{digits}/data.safetensors",
            baseline=digits / "model.pt",
            max_loss_rise=0.1,
        )
    assert "--max-drop" in refusal.value.tip
    for bound in (-0.1, math.inf, math.nan):
        with pytest.raises(OptionError, match="cannot be allowed"):
            alds_cli.evaluate(words, texts, baseline=Words(), max_loss_rise=bound)
