"""Gates: what fails, how sure that is, and what is said of it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.stats import binom
from segmenting import PREPARED, SOURCE, masked_images, segmenting_network
from small_networks import digits_network
from torch import nn

import alds_cli
from alds_cli.datasets import TensorImages
from alds_cli.errors import DataError, OptionError
from alds_cli.evaluation import (
    Bounds,
    ClassPixels,
    answers_drop,
    counted_drop,
    paired_drop,
    paired_iou_drop,
)
from alds_cli.evaluation import models as evaluating
from alds_cli.records import Footprint, Latency, Preprocessing
from alds_cli.runtime.devices import median_at_least

PLAIN = Preprocessing((0.0,), (1.0,))


def drop_gate(drop, allowed, confidence=0.95, of="top1"):
    """The gate that an evaluation would make of a drop."""
    (gate,) = Bounds({}, allowed, confidence).judged(Footprint(1, 1, 1, None), None, of, drop)
    return gate


# ---------------------------------------------------------------- real drops and chance

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "ci.md").read_text(encoding="utf-8")

ONE_POINT = [
    (float(found[3]), float(found[1]), float(found[2]) / 100)
    for found in re.finditer(r"^\| ([\d.]+) \| (\d+) \| ([\d.]+) % \|", PAGE, re.MULTILINE)
]
"""Where the page says that 5,000 images show a drop of one point in at least 95 of 100 cases: up to
which disagreement in per cent, with which drop allowed, and with which confidence."""


def population(images, disagreement, drop):
    """Whether two networks are right on images of which they disagree on so many per cent."""
    lost = round(images * (disagreement + drop) / 200)
    gained = round(images * (disagreement - drop) / 200)
    before, after = torch.zeros(2, images, dtype=torch.bool)
    before[gained : images - 300], after[lost + gained : images - 300] = True, True
    after[:gained] = True
    assert int(before.sum() - after.sum()) == lost - gained == images * drop / 100
    return before, after


def failures(before, after, allowed, confidence, resamplings=100):
    """How many of so many seeded resamplings of the images fail."""
    failed = 0
    for seed in range(resamplings):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(0, len(before), (len(before),), generator=generator)
        failed += not drop_gate(
            paired_drop(before[drawn], after[drawn]), allowed, confidence
        ).passed
    return failed


@pytest.mark.parametrize(
    ("disagreement", "allowed", "confidence"),
    [(1.04, 0.5, 0.95), (2, 0.2, 0.95), (3.08, 0.1, 0.95), (3.08, 0.0, 0.95), (3.08, 0.5, 0.5)],
)
def test_a_real_drop_of_a_point_fails_and_none_passes(disagreement, allowed, confidence):
    """3.08 % is the disagreement of the networks in the README."""
    worse = population(5000, disagreement, 1)
    same = population(5000, disagreement, 0)
    assert failures(*worse, allowed, confidence) >= 95
    assert failures(*same, allowed, confidence) <= 5


def failing(images, disagreement, drop, allowed, confidence):
    """The exact probability that the gate fails, by all outcomes that are not out of reach."""
    share, worse = disagreement / 100, (disagreement + drop) / (2 * disagreement)
    total = np.arange(images + 1)
    chances = binom.pmf(total, images, share)
    found = 0.0
    for differing in total[chances > 1e-7].tolist():
        low, high = -1, differing + 1  # it fails from a number of lost images on
        while high - low > 1:
            lost = (low + high) // 2
            gate = drop_gate(counted_drop(lost, differing - lost, images), allowed, confidence)
            low, high = (lost, high) if gate.passed else (low, lost)
        found += chances[differing] * binom.sf(high - 1, differing, worse)
    return found


@pytest.mark.parametrize(("disagreement", "allowed", "confidence"), ONE_POINT)
def test_the_page_says_truly_which_disagreement_shows_a_point(disagreement, allowed, confidence):
    assert len(ONE_POINT) == 5
    assert failing(5000, disagreement, 1, allowed, confidence) >= 0.95
    assert failing(5000, disagreement + 0.2, 1, allowed, confidence) < 0.95
    assert failing(5000, disagreement, 0, allowed, confidence) <= 0.05


@pytest.mark.parametrize("images", [100, 1000, 5000])
@pytest.mark.parametrize("disagreement", [1, 3, 8])
@pytest.mark.parametrize("drop", [0, 0.5, 1])
def test_a_drop_that_is_allowed_fails_in_at_most_5_of_100_cases(images, disagreement, drop):
    assert failing(images, disagreement, drop, drop, 0.95) <= 0.0501


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0, 5), st.floats(0.501, 0.999))
@settings(deadline=None, max_examples=50)
def test_the_burden_of_proof_can_be_turned(lost, gained, allowed, confidence):
    drop = counted_drop(lost, gained, 1000)
    strict = drop_gate(drop, allowed, 1 - confidence)
    lenient = drop_gate(drop, allowed, confidence)
    assert lenient.judged <= drop.points <= strict.judged
    assert lenient.passed or not strict.passed
    mirrored = counted_drop(gained, lost, 1000)
    assert strict.judged == pytest.approx(-mirrored.at_least(confidence), abs=1e-6)


def test_half_a_confidence_compares_the_figures_alone():
    assert drop_gate(counted_drop(6, 1, 1000), 0.5, 0.5).passed
    assert not drop_gate(counted_drop(7, 1, 1000), 0.5, 0.5).passed


def test_the_drop_that_would_be_found_is_found_as_often_as_said():
    for lost, gained, allowed in ((60, 60, 0.1), (110, 90, 0.5), (30, 10, 0.0)):
        gate = drop_gate(counted_drop(lost, gained, 5000), allowed)
        disagreement = (lost + gained) / 50
        often = failing(5000, max(disagreement, gate.found_from), gate.found_from, allowed, 0.95)
        assert 0.93 < often < 0.98


def drawn_masks(seed, images, worse):
    """Pixels of two networks by class, of which the second is worse by so much of a share."""
    rng = np.random.default_rng(seed)
    size = rng.integers(20, 200, (images, 4))
    right = [rng.beta(8, 2, size.shape) for _ in range(2)]
    both = [np.clip(right[0] + 0.1 * (own - 0.8), 0, 1) for own in right]
    both[1] = np.clip(both[1] - worse, 0, 1)
    return [ClassPixels(torch.tensor(np.round(size * own)), torch.tensor(size)) for own in both]


def test_a_real_drop_of_mean_iou_fails_and_none_passes():
    counts = {}
    for worse in (0.0, 0.03):
        before, after = drawn_masks(1, 400, worse)
        truth = 100 * (before.mean - after.mean)
        failed = 0
        for seed in range(100):
            drawn = torch.randint(0, 400, (400,), generator=torch.Generator().manual_seed(seed))
            sample = [ClassPixels(own.right[drawn], own.union[drawn]) for own in (before, after)]
            failed += not drop_gate(paired_iou_drop(*sample), max(truth - 1.5, 0), of="miou").passed
        counts[worse] = failed
        assert abs(truth - 100 * worse) < 1
    assert counts[0.03] >= 95
    assert counts[0.0] <= 5


def test_one_image_fails_nothing():
    masks = drawn_masks(0, 1, 0.5)
    for confidence in (0.5001, 0.95):
        assert drop_gate(paired_iou_drop(*masks), 1.0, confidence).passed
    assert not drop_gate(paired_iou_drop(*masks), 1.0, 0.05).passed


# ---------------------------------------------------------------- times


@pytest.mark.parametrize("count", [5, 8, 25, 100, 1000])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_the_median_is_above_the_bound_as_often_as_said(count, confidence):
    times = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
    rank = int(median_at_least(times, confidence))

    def below(own):
        """Probability that the own-th smallest time lies below the true median."""
        return sum(comb(count, i) for i in range(own, count + 1)) / 2**count

    assert below(rank) >= confidence
    assert below(rank + 1) < confidence
    assert median_at_least(times, 1 - confidence) == count + 1 - rank or confidence == 0.5


def time_gate(times, allowed, confidence=0.95):
    seconds = np.array(times) / 1e3
    latency = Latency(float(np.median(times)), 1.0, 1.0, len(times), 1, "cpu")
    bounds = Bounds({"latency": round(1e6 * allowed)}, None, confidence)
    (gate,) = bounds.judged(Footprint(1, 1, 1, latency), seconds, "top1", None)
    return gate


def test_a_time_fails_only_where_its_interval_lies_above_the_bound():
    times = np.linspace(2.0, 4.0, 101)
    gate = time_gate(times, 2.9)
    assert gate.passed
    assert gate.figure == 3.0 > gate.bound
    assert 2.7 < gate.judged < 2.9
    assert not time_gate(times, 2.9, 0.5).passed
    assert not time_gate(times, 2.7).passed
    assert time_gate(times, 3.1, 0.5).passed
    assert not time_gate(times, 3.1, 0.05).passed


def test_three_runs_are_too_few_to_show_anything_but_the_least_of_them():
    assert time_gate([5.0, 6.0, 7.0], 5.5).passed
    assert not time_gate([5.0, 6.0, 7.0], 4.9).passed


# ---------------------------------------------------------------- in Python


class Answering(nn.Module):
    """Gives each image the class that its first pixel says."""

    def __init__(self, shift=0):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = shift

    def forward(self, x):
        number = (x[:, 0, 0, 0] * 255).round().long()
        logits = nn.functional.one_hot((number + self.shift) % 10, 10).float()
        return logits * self.scale


def images(labels):
    pixels = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2) % 10
    return TensorImages("set", [pixels], torch.arange(40) % 10 if labels else None)


def evaluate(model, data, **options):
    return alds_cli.evaluate(
        model, data, preprocessing=PLAIN, device="cpu", **{"latency": False, **options}
    )


@pytest.mark.parametrize(("labels", "of"), [(True, "top1"), (False, "agreement")])
def test_what_may_drop_is_what_the_images_tell(labels, of):
    result = evaluate(Answering(1), images(labels), baseline=Answering(), max_drop=90)
    (gate,) = result.gates
    assert (gate.name, gate.of, gate.figure, gate.bound) == ("drop", of, 100, 90)
    assert gate.passed == (gate.judged <= 90)
    same = evaluate(Answering(), images(labels), baseline=Answering(), max_drop=0)
    assert same.gates[0].passed
    assert same.gates[0].figure == 0


def test_an_answer_that_is_none_is_no_agreement():
    none = torch.tensor([-1, 2, 3])
    assert answers_drop(none, none, None).points == pytest.approx(100 / 3)


def test_masks_have_a_drop_of_mean_iou():
    model, other = segmenting_network(), segmenting_network()
    nn.init.zeros_(other.head.weight)
    data = masked_images(model)
    given = {"source": SOURCE, "preprocessing": PREPARED, "latency": False, "device": "cpu"}
    result = alds_cli.evaluate(other, data, baseline=model, max_drop=1, max_params=10**9, **given)
    drop, params = result.gates
    assert (drop.of, params.of) == ("miou", None)
    assert drop.figure == pytest.approx(-result.comparison.difference)
    assert not drop.passed
    assert params.passed


def test_every_bound_has_a_gate_and_counts_are_exact():
    result = evaluate(
        Answering(), images(True), latency=True, max_params="1", max_macs=1, max_latency="1s"
    )
    assert [gate.name for gate in result.gates] == ["params", "macs", "latency"]
    assert all(gate.passed for gate in result.gates)
    assert [gate.confidence for gate in result.gates] == [None, None, 95]
    assert evaluate(Answering(), images(True)).gates == ()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_drop": 1}, OptionError, "against another network, and none is named"),
        ({"max_latency": "3ms"}, OptionError, "needs what --no-latency leaves out"),
        ({"max_params": "3ms"}, OptionError, "--max-params is a positive number"),
        ({"max_size": "5MB"}, DataError, "does not come from a file"),
        ({"max_drop": -1, "baseline": Answering()}, OptionError, "-1 points cannot be allowed"),
        ({"max_drop": math.nan, "baseline": Answering()}, OptionError, "nan points"),
        ({"confidence": 100}, OptionError, "100 % does not exist"),
    ],
)
def test_bounds_that_make_no_sense_are_told_before_images_are_looked_at(
    options, error, message, monkeypatch
):
    def looked(*_):
        raise AssertionError

    monkeypatch.setattr(evaluating, "answers_of", looked)
    with pytest.raises(error, match=message):
        evaluate(Answering(), images(True), **options)


def test_macs_that_cannot_be_counted_are_told():
    bounds = Bounds({"macs": 5}, None, 0.95)
    with pytest.raises(DataError, match="cannot be counted"):
        bounds.require_known(replace(Footprint(1, 5, 5, None), macs=None))


# ---------------------------------------------------------------- as a command


@pytest.fixture
def files(digits, tmp_path):
    """A network, another one, and images whose labels are what the first answers."""
    torch.save(digits_network(seed=5).state_dict(), tmp_path / "small.pt")
    pixels = load_file(digits / "data.safetensors")["images"]
    network = alds_cli.load(digits / "model.pt").eval()
    prepared = {"images": pixels, "labels": torch.arange(64) % 10}
    with torch.no_grad():
        prepared["labels"] = network(pixels.permute(0, 3, 1, 2).float() / 16).argmax(1)
    save_file(prepared, tmp_path / "data.safetensors")
    return tmp_path


def command(files, digits, *more):
    data = f"tensors:{files / 'data.safetensors'}"
    common = ("evaluate", files / "small.pt", "--data", data, "--mean", "0", "--std")
    return (*common, str(16 / 255), "--baseline", digits / "model.pt", "--no-latency", *more)


def test_a_failed_gate_is_named_with_figure_and_bound(run, files, digits):
    bounds = ("--max-drop", "0.5", "--max-size", "5MB", "--max-params", "10")
    code, out, err = run(*command(files, digits, *bounds))
    assert code == 1
    document = json.loads(run(*command(files, digits, *bounds, "--json"))[1])
    drop, params, size = document["gates"]
    assert [own["passed"] for own in (drop, params, size)] == [False, False, True]
    assert "error: 2 of 3 gates failed: the drop of top-1 is" in err
    assert f"is {drop['figure']:.2f} points (at least {drop['judged']:.2f} with 95 %" in err
    assert "and only 0.5 are allowed" in err
    assert f"the model has {document['params']:,} parameters, and only 10 are allowed" in err
    assert "the file" not in err
    assert (params["figure"], params["bound"]) == (document["params"], 10)
    assert (size["figure"], size["bound"]) == (document["bytes"], 5_000_000)
    said = " ".join(out.split())
    assert f"drop of top-1 {drop['figure']:.2f} at least {drop['judged']:.2f} 0.5 failed" in said
    assert f"bytes {size['figure']:,} 5,000,000 passed" in said
    assert f"a true drop of {drop['found_from']:.2f} points or more fails in 95 of 100" in said


def test_gates_that_hold_end_with_0(run, files, digits):
    code, out, err = run(*command(files, digits, "--max-drop", "100", "--max-macs", "1G"))
    assert (code, err) == (0, "")
    assert out.count("passed") == 2
    assert "no drop fails in 95 of 100 samples" in " ".join(out.split())
    code, out, err = run(*command(files, digits, "--json"))
    assert (code, json.loads(out)["gates"]) == (0, [])


def test_one_gate_is_not_called_one_of_one(run, files, digits):
    code, out, err = run(*command(files, digits, "--max-size", "1kB", "-q"))
    assert code == 1
    assert "error: the gate failed: the file has" in err
    assert "shown" not in out
    assert "and only 1,000 are allowed" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-drop", "101"), "a number from 0 to 100"),
        (("--confidence", "0"), "a number from 0.01 to 99.99"),
        (("--max-size", "5 parsecs"), "--max-size is a positive number"),
        (("--max-latency", "3ms"), "--no-latency"),
    ],
)
def test_bad_bounds_are_bad_usage(run, files, digits, options, message):
    code, out, err = run(*command(files, digits, *options))
    assert (code, out) == (2, "")
    assert message in err
