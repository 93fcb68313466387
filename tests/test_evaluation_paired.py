"""What so many images can tell: intervals, McNemar's test, and evaluation beside a baseline."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest
from torch import nn

import alds_cli
from alds_cli.datasets import TensorImages
from alds_cli.errors import DataError, OptionError
from alds_cli.evaluation import compared, mcnemar, wilson_interval
from alds_cli.records import Preprocessing

COUNTS = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(deadline=None)
@given(COUNTS)
def test_wilsons_interval_is_that_of_scipy(counts):
    right, count = counts
    low, high = wilson_interval(right, count)
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(100 * expected.low, abs=1e-9)
    assert high == pytest.approx(100 * expected.high, abs=1e-9)
    assert 0 <= low <= 100 * right / count <= high <= 100
    assert low < high


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemars_test_is_the_exact_binomial_one(first, second):
    p = mcnemar(first, second)
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert p == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert p == mcnemar(second, first)


def test_mcnemars_test_on_paper():
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 1) == mcnemar(1, 1) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(0, 30_000) == 0


ANSWERS = st.lists(st.tuples(*[st.integers(-1, 2)] * 2, st.integers(0, 2)), min_size=1, max_size=40)


@settings(deadline=None)
@given(ANSWERS)
def test_a_comparison_counts_what_a_loop_counts(rows):
    model, baseline, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    found = compared(model, baseline, labels)
    assert found.images == len(rows)
    same = sum(own == other != -1 for own, other, _ in rows)
    assert found.agreement == pytest.approx(100 * same / len(rows))
    assert found.only_model == sum(own == label != other for own, other, label in rows)
    assert found.only_baseline == sum(other == label != own for own, other, label in rows)
    gap = sum((own == label) - (other == label) for own, other, label in rows)
    assert found.difference == pytest.approx(100 * gap / len(rows))
    assert found.difference_low <= found.difference <= found.difference_high
    alone = compared(model, baseline, None)
    assert (alone.agreement, alone.images) == (found.agreement, found.images)
    assert alone.only_model is alone.p_value is alone.difference is alone.difference_low is None


class Answering(nn.Module):
    """Gives each image the class that its first pixel says; NaN for 255."""

    def __init__(self, shift=0, classes=10):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.shift, self.classes = shift, classes

    def forward(self, x):
        number = (x[:, 0, 0, 0] * 255).round().long()
        logits = nn.functional.one_hot((number + self.shift) % self.classes, self.classes).float()
        return logits.masked_fill((number == 255)[:, None], torch.nan) * self.scale


PLAIN = Preprocessing((0.0,), (1.0,))


def images(numbers, labels):
    pixels = torch.tensor(numbers, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return TensorImages("set", [pixels], None if labels is None else torch.tensor(labels))


def evaluate(model, data, **options):
    return alds_cli.evaluate(
        model, data, latency=False, preprocessing=PLAIN, device="cpu", batch_size=3, **options
    )


def test_both_networks_answer_for_the_same_images():
    data = images([0, 1, 2, 3, 4, 5, 6], [1, 2, 2, 4, 5, 6, 7])
    result = evaluate(Answering(shift=1), data, baseline=Answering())
    found = result.comparison
    assert (found.images, found.only_model, found.only_baseline) == (7, 6, 1)
    assert found.agreement == 0
    assert found.p_value == binomtest(6, 7).pvalue
    assert found.difference == pytest.approx(
        result.model.quality.top1 - result.baseline.quality.top1
    )
    assert result.model.top1_interval == wilson_interval(6, 7)
    assert result.baseline.top1_interval == wilson_interval(1, 7)


def test_without_a_baseline_nothing_is_compared():
    result = evaluate(Answering(), images([1, 2], [1, 3]))
    assert (result.comparison, result.baseline) == (None, None)
    assert result.model.top1_interval == wilson_interval(1, 2)


def test_images_without_labels_tell_how_often_both_agree():
    data = images([0, 1, 9, 255], None)
    result = evaluate(Answering(classes=10), data, baseline=Answering(classes=10))
    assert result.comparison.agreement == 75  # NaN is no answer, and agrees with nothing
    assert result.comparison.p_value is None
    assert result.model.quality is result.baseline.quality is result.model.top1_interval is None
    assert result.images == 4
    assert result.model.footprint.params == 1


def test_images_without_labels_need_a_baseline():
    with pytest.raises(DataError, match="set has no labels") as caught:
        evaluate(Answering(), images([1], None))
    assert "--baseline" in caught.value.tip


def test_images_without_labels_have_no_names_of_classes():
    with pytest.raises(OptionError, match="no labels, but names"):
        evaluate(Answering(), images([1], None), baseline=Answering(), classes=["a"])


def test_networks_of_other_classes_have_no_answers_in_common():
    with pytest.raises(DataError, match="tells 10 classes apart and the baseline 7"):
        evaluate(Answering(), images([1], None), baseline=Answering(classes=7))


def test_the_table_and_the_json_say_it(run, digits, tmp_path):
    small = tmp_path / "small.pt"
    assert run("compress", digits / "model.pt", "-r", "0.5", "-o", small)[0] == 0
    data = digits / "data.safetensors"
    common = ("evaluate", small, "--baseline", digits / "model.pt", "--no-latency", "--data")
    code, out, err = run(*common, f"tensors:{data}")
    assert code == 0, err
    document = json.loads(run(*common, f"tensors:{data}", "--json")[1])
    found = document["comparison"]
    assert f"same answer on {found['agreement']:.2f} % of the images" in out
    assert f"right on {found['only_model']}, only the baseline on {found['only_baseline']}" in out
    assert f"McNemar's p = {found['p_value']:.2g}" in out
    low, high = document["top1_interval"]
    assert f"{document['top1']:.2f} % ({low:.2f}–{high:.2f})" in out
    assert document["baseline"]["top1_interval"] != document["top1_interval"] or low < high
    save_file({"images": load_file(data)["images"]}, tmp_path / "unlabelled.safetensors")
    code, out, err = run(*common, f"tensors:{tmp_path / 'unlabelled.safetensors'}")
    assert code == 0, err
    assert f"same answer on {found['agreement']:.2f} % of the images" in out
    assert not re.search("top-1|loss|McNemar", out)
    code, out, err = run(*common, f"tensors:{tmp_path / 'unlabelled.safetensors'}", "--json")
    document = json.loads(out)
    assert code == 0, err
    assert document["top1"] is document["loss"] is document["top1_interval"] is None
    assert document["comparison"]["agreement"] == found["agreement"]
    assert document["images"] == 64
