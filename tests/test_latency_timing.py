"""Turns, quotients and devices: the ground that all measured times stand on."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
import torch

from alds_cli.runtime.devices import computing_dtype, device_name, in_turns, paired, time_networks

CPU = torch.device("cpu")


class Clock:
    """A clock that only moves when something runs."""

    def __init__(self):
        self.now = 100.0
        self.order = []

    def __call__(self):
        return self.now

    def taking(self, name, *seconds):
        """A function that takes these seconds in turn, again and again."""
        durations = itertools.cycle(seconds)

        def run():
            self.order.append(name)
            self.now += next(durations)

        return run


def test_turns_and_their_times():
    clock = Clock()
    runs = {"a": clock.taking("a", 1.0, 2.0, 4.0), "b": clock.taking("b", 10.0)}
    times = in_turns(runs, CPU, rounds=4, warmup=1, clock=clock)
    assert clock.order == ["a", "b"] * 5
    assert times["a"].tolist() == [2.0, 4.0, 1.0, 2.0]
    assert times["b"].tolist() == [10.0] * 4


def test_the_number_of_rounds_may_follow_from_the_time_of_one():
    clock = Clock()
    asked = []

    def rounds(seconds):
        asked.append(seconds)
        return 3

    runs = {"a": clock.taking("a", 1.0), "b": clock.taking("b", 10.0)}
    times = in_turns(runs, CPU, rounds=rounds, warmup=2, clock=clock)
    assert asked == [11.0]
    assert len(times["a"]) == len(times["b"]) == 3
    assert clock.order == ["a", "b"] * (2 + 1 + 3)


def test_what_slows_whole_rounds_cancels_in_the_quotient():
    slowdown = np.array([1.0, 3.0, 1.5, 20.0, 1.0, 7.0])
    own = paired(0.8 * slowdown, 1.0 * slowdown)
    assert own.rounds == 6
    for value in (own.median, own.lower_quartile, own.upper_quartile, own.at_most):
        assert value == pytest.approx(0.8)


@pytest.mark.parametrize("count", [5, 7, 8, 11, 15, 25, 100, 1000])
def test_the_bound_is_the_least_that_the_median_rarely_exceeds(count):
    ratios = np.random.default_rng(count).permutation(np.arange(1, count + 1) / count)
    rank = round(paired(ratios, np.ones(count)).at_most * count)  # from 1

    def exceeded(own):
        """Probability that at least `own` of the values lie below the true median."""
        return sum(comb(count, i) for i in range(own, count + 1)) / 2**count

    assert exceeded(rank) <= 0.05
    assert rank == 1 or exceeded(rank - 1) > 0.05


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_rounds_are_bounded_by_the_slowest(count):
    ratios = np.linspace(0.5, 0.9, count)
    assert paired(ratios, np.ones(count)).at_most == ratios[-1]


def test_eleven_rounds_survive_two_disturbed_ones():
    ratios = np.array([0.9] * 9 + [5.0, 40.0])
    assert paired(ratios, np.ones(11)).at_most == 0.9


def test_nothing_to_time():
    assert time_networks({}, (3,), batch_size=1, device=CPU) == {}


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        (torch.float16, "cpu", torch.float32),
        (torch.bfloat16, "cpu", torch.float32),
        (torch.float64, "cpu", torch.float64),
        (torch.float32, "cpu", torch.float32),
        (torch.float16, "cuda", torch.float16),
    ],
)
def test_half_precision_is_widened_on_the_cpu_only(dtype, device, expected):
    assert computing_dtype(dtype, torch.device(device)) == expected


def test_devices_have_names():
    assert device_name(CPU).strip()
    assert device_name(CPU) == device_name(torch.device("cpu"))
    assert device_name(torch.device("meta")) == "meta"
