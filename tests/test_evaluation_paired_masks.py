"""The difference of mean IoU between two networks on the same images, and its interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from alds_cli.evaluation import ClassPixels, count_masks, measure_masks, paired_iou_drop


def drawn(seed, images, classes, worse=0.3, often=0.4):
    """Pixels of two networks by (right, union), of which the second is mostly worse."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 60, (images, classes)) * (rng.random((images, classes)) < often)
    first = rng.beta(4, 1.5, size.shape)
    second = np.clip(first - worse * rng.random(size.shape) + 0.05, 0, 1)
    extra = rng.integers(0, 9, size.shape) * (rng.random(size.shape) < 0.2)
    return tuple(
        ClassPixels(torch.tensor(np.round(size * own).astype(int)), torch.tensor(size + extra))
        for own in (first, second)
    )


def mean_iou(found, kept=None):
    """The mean over the classes, one after another; `kept` are the shares of classes left out."""
    shares = []
    for number in range(found.right.shape[1]):
        union = int(found.union[:, number].sum())
        if union:
            shares.append(int(found.right[:, number].sum()) / union)
        elif kept is not None and number in kept:
            shares.append(kept[number])
    return sum(shares) / len(shares)


def without(found, image):
    left = [index for index in range(len(found.right)) if index != image]
    return ClassPixels(found.right[left], found.union[left])


def shares_of(found):
    sums = zip(found.right.sum(0).tolist(), found.union.sum(0).tolist(), strict=True)
    return {number: right / union for number, (right, union) in enumerate(sums) if union}


@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_the_interval_is_that_of_leaving_out_one_image_after_another(seed, images, classes):
    before, after = drawn(seed, images, classes)
    if not before.union.any() or not after.union.any():
        return
    drop, low, high = paired_iou_drop(before, after).with_interval
    assert drop == pytest.approx(100 * (mean_iou(before) - mean_iou(after)))
    kept = shares_of(before), shares_of(after)
    left = [
        mean_iou(without(before, image), kept[0]) - mean_iou(without(after, image), kept[1])
        for image in range(images)
    ]
    variance = (images - 1) / images * sum((own - np.mean(left)) ** 2 for own in left)
    showing = ((before.union + after.union) > 0).sum(0).tolist()
    alone = showing.count(1) / (len(showing) - showing.count(0)) ** 2
    half = student.ppf(0.975, images - 1) * (variance + 1 / images**2 + alone) ** 0.5
    assert high == pytest.approx(min(100, drop + 100 * half))
    assert low == pytest.approx(max(-100, drop - 100 * half))
    assert paired_iou_drop(after, before).with_interval == pytest.approx((-drop, -high, -low))


@pytest.mark.parametrize(
    ("images", "classes", "often"), [(12, 3, 0.6), (40, 8, 0.2), (150, 5, 0.4)]
)
@pytest.mark.parametrize("worse", [0.1, 0.6])
def test_the_interval_covers_the_true_drop_at_least_as_often_as_it_says(
    images, classes, often, worse
):
    """The true drop is that of a population so large that it varies no more."""
    everything = drawn(7, 60_000, classes, worse, often)
    truth = 100 * (mean_iou(everything[0]) - mean_iou(everything[1]))
    rng = np.random.default_rng(images)
    covered, widths = 0, []
    for _ in range(300):
        index = torch.from_numpy(rng.integers(0, 60_000, images))
        sample = (ClassPixels(own.right[index], own.union[index]) for own in everything)
        drop, low, high = paired_iou_drop(*sample).with_interval
        covered += low <= truth <= high
        widths.append((high - low, drop))
    assert covered >= 0.94 * 300
    spread = np.std([drop for _, drop in widths])
    # It tells something: near the width that the spread of the drops themselves asks for.
    assert np.mean([width for width, _ in widths]) < 2 * 1.96 * spread + 500 / images


def test_networks_that_never_differ_have_an_interval_nevertheless():
    before, _ = drawn(0, 50, 3, often=1)
    drop, low, high = paired_iou_drop(before, before).with_interval
    assert drop == 0
    assert low == pytest.approx(-100 * student.ppf(0.975, 49) / 50)
    assert high == -low


def test_one_image_tells_nothing():
    before, after = drawn(0, 1, 3, often=1)
    drop, low, high = paired_iou_drop(before, after).with_interval
    assert (low, high) == (-100, 100)
    assert low < drop < high


def test_a_class_that_a_single_image_shows_widens_the_interval():
    before, after = drawn(1, 30, 4, often=1)
    _, low, high = paired_iou_drop(before, after).with_interval
    rare = [ClassPixels(own.right.clone(), own.union.clone()) for own in (before, after)]
    for own in rare:
        own.right[1:, 3], own.union[1:, 3] = 0, 0
    _, lower, higher = paired_iou_drop(*rare).with_interval
    assert higher - lower > 2 * 100 * student.ppf(0.975, 29) / 4 > high - low


def test_one_network_may_know_more_classes_than_the_other():
    def answer(classes):
        def run(x):
            return torch.nn.functional.one_hot(x[:, 0].long(), classes).movedim(-1, 1).float()

        return Answering(run)

    inputs = torch.tensor([[[0, 1], [1, 2]], [[0, 0], [1, 1]]])[:, None].float()
    masks = torch.tensor([[[0, 1], [1, 2]], [[0, 0], [1, 255]]])
    qualities, comparison = measure_masks(
        {"model": answer(3), "baseline": answer(5)}, [(inputs, masks)], device=torch.device("cpu")
    )
    assert qualities["model"].mean_iou == qualities["baseline"].mean_iou == 100
    assert comparison.agreement == 100
    assert comparison.difference == 0
    assert comparison.difference_low == pytest.approx(-comparison.difference_high)


class Answering(torch.nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, x):
        return self.run(x)


def test_several_networks_are_each_compared_with_the_last_as_if_alone():
    torch.manual_seed(0)
    classes = {"one": 4, "two": 3, "three": 5, "baseline": 4}
    networks = {name: torch.nn.Conv2d(3, own, 1) for name, own in classes.items()}
    batches = [(torch.randn(3, 3, 6, 6), torch.randint(3, (3, 6, 6))) for _ in range(2)]
    found = count_masks(networks, batches)
    comparisons = found.comparisons()
    assert list(comparisons) == ["one", "two", "three"]
    assert len({own.agreement for own, _ in comparisons.values()}) == 3
    for name, (comparison, _) in comparisons.items():
        pair = {name: networks[name], "baseline": networks["baseline"]}
        assert measure_masks(pair, batches)[1] == comparison
        assert found.tallies[name].quality() == measure_masks(pair, batches)[0][name]
