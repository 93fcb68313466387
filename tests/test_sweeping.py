"""The grid of a sweep, its order, what may be added to one, and how long it will take."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import sweep_cases
from hypothesis import given
from hypothesis import strategies as st

from alds_cli.checkpoint.run_folder import RunKey
from alds_cli.errors import OptionError
from alds_cli.sweeping import (
    Forecast,
    Outlook,
    agreed,
    geometric_ratios,
    planned_runs,
    written,
)

alphas = st.decimals("0.001", "0.999", places=3).map(str)


# ---------------------------------------------------------------- ratios


def test_ratios_of_the_paper():
    # 1 - 0.8^i to four places
    expected = "0.2 0.36 0.488 0.5904 0.6723 0.7379 0.7903 0.8322 0.8658 0.8926 0.9141 0.9313"
    assert geometric_ratios("0.8", 12) == expected.split()
    assert geometric_ratios(0.8, 3) == ["0.2", "0.36", "0.488"]


@given(alpha=alphas, steps=st.integers(1, 60))
def test_ratios_ascend_below_one(alpha, steps):
    ratios = [Fraction(text) for text in geometric_ratios(alpha, steps)]
    assert len(ratios) == steps
    assert all(0 < ratio < 1 for ratio in ratios)
    assert all(low < high for low, high in pairwise(ratios))


@given(alpha=alphas, steps=st.integers(1, 60))
def test_ratios_are_close_to_the_exact_ones(alpha, steps):
    share = Fraction(alpha)
    for step, text in enumerate(geometric_ratios(alpha, steps), start=1):
        off = abs(Fraction(text) - (1 - share**step))
        assert off <= Fraction(1, 20_000)
        assert off < share**step * (1 - share) / 100


@given(alpha=alphas, steps=st.integers(1, 30))
def test_ratios_are_decimals_without_needless_digits(alpha, steps):
    for text in geometric_ratios(alpha, steps):
        assert text.startswith("0.")
        assert not text.endswith("0")
        assert Fraction(Decimal(text)) == Fraction(text)


@pytest.mark.parametrize("alpha", ["0", "1", "-0.5", "1.5", "nan", "inf", "much", "1/0", ""])
def test_alpha_lies_between_0_and_1(alpha):
    with pytest.raises(OptionError, match="alpha is what each step leaves"):
        geometric_ratios(alpha, 3)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_number_of_steps_is_sensible(steps):
    with pytest.raises(OptionError, match=f"not {steps}"):
        geometric_ratios("0.8", steps)


@given(st.fractions(0, 1, max_denominator=10**6).filter(lambda ratio: 0 < ratio < 1))
def test_a_ratio_is_written_without_rounding(ratio):
    text = written(ratio)
    assert Fraction(text) == ratio
    assert ("/" in text) == (10**64 % ratio.denominator != 0)


# ---------------------------------------------------------------- runs and their order


@given(
    methods=st.dictionaries(st.sampled_from("abcdef"), st.booleans(), min_size=1),
    ratios=st.lists(st.sampled_from(["0.1", "0.5", "0.9"]), min_size=1, unique=True),
    repeats=st.integers(1, 4),
    epochs=st.lists(st.integers(0, 3), min_size=1, unique=True),
)
def test_every_run_that_can_differ_is_planned_once(methods, ratios, repeats, epochs):
    keys = planned_runs(methods, ratios, repeats=repeats, retrain_epochs=epochs)
    assert len(set(keys)) == len(keys)
    for method, seeded in methods.items():
        for ratio in ratios:
            for amount in epochs:
                found = {k.repeat for k in keys if k[:2] == (method, ratio) and k[3] == amount}
                random = seeded or amount > 0
                assert found == (set(range(repeats)) if random else {0})


@given(
    methods=st.dictionaries(st.sampled_from("abcd"), st.booleans(), min_size=1),
    repeats=st.integers(1, 3),
)
def test_no_method_goes_ahead_of_another(methods, repeats):
    """Within a repeat, the methods are never more than one ratio apart."""
    ratios = ["0.1", "0.5", "0.9"]
    keys = planned_runs(methods, ratios, repeats=repeats, retrain_epochs=[0, 2])
    for end in range(len(keys) + 1):
        done = keys[:end]
        if done and done[-1].repeat == 0:
            counts = [
                sum(key.method == m and key[2:] == done[-1][2:] for key in done) for m in methods
            ]
            assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {}}, "at least one method"),
        ({"ratios": []}, "at least one ratio"),
        ({"retrain_epochs": []}, "at least one amount of retraining"),
        ({"ratios": ["0.5", "0.5"]}, "the ratio 0.5 is given twice"),
        ({"retrain_epochs": [1, 0, 1]}, "the amount of retraining 1 is given twice"),
        ({"retrain_epochs": [0, -2]}, "-2 epochs of retraining make no sense"),
        ({"repeats": 0}, "not 0 times"),
    ],
)
def test_a_grid_must_make_sense(change, message):
    usual = {"methods": {"alds": False}, "ratios": ["0.5"], "repeats": 1, "retrain_epochs": [0]}
    arguments = {**usual, **change}
    with pytest.raises(OptionError, match=message):
        planned_runs(arguments.pop("methods"), arguments.pop("ratios"), **arguments)


# ---------------------------------------------------------------- what a folder goes on with


def test_settings_that_nothing_needed_are_added():
    known = {"target": "params", "retraining": None, "samples": 512}
    asked = {"target": "params", "retraining": {"lr": 0.1}, "samples": None}
    merged = {"target": "params", "retraining": {"lr": 0.1}, "samples": 512}
    assert agreed(Path("run"), known, asked) == merged
    assert agreed(Path("run"), merged, asked) == merged


def test_all_that_differs_is_named():
    known = {"target": "params", "retraining": {"lr": 0.1, "gamma": 0.5}, "weights": "a" * 64}
    asked = {"target": "macs", "retraining": {"lr": 0.2, "gamma": 0.5}, "weights": "b" * 64}
    with pytest.raises(OptionError) as caught:
        agreed(Path("run"), known, asked)
    assert caught.value.message == (
        "the sweep in run was begun differently: target params, not macs; "
        "retraining.lr 0.1, not 0.2; weights aaaaaaaaaaaa…, not bbbbbbbbbbbb…"
    )
    assert "-o" in caught.value.tip


# ---------------------------------------------------------------- how long


def finished(forecast, method, seconds, *, epochs=0, here=True):
    key = RunKey(method, "0.5", 0, epochs)
    forecast.finished(sweep_cases.record(key, seconds=seconds), here=here)


def left(forecast, *runs):
    keys = [RunKey(method, f"0.{n}", 0, epochs) for n, (method, epochs) in enumerate(runs, 1)]
    return forecast.outlook(keys)


def test_nothing_is_foretold_from_nothing():
    assert left(Forecast(), ("a", 0)) is None
    assert left(Forecast()) == Outlook(0.0, at_least=False)


def test_runs_take_what_their_like_took():
    forecast = Forecast()
    finished(forecast, "a", {"compress": 1.0, "evaluate": 1.0})
    finished(forecast, "b", {"compress": 5.0, "evaluate": 1.0})
    assert left(forecast, ("a", 0), ("a", 0)) == Outlook(4.0, at_least=False)
    assert left(forecast, ("b", 0)) == Outlook(6.0, at_least=False)
    assert left(forecast, ("new", 0)) == Outlook(4.0, at_least=False)


def test_retraining_takes_as_long_as_its_epochs():
    forecast = Forecast()
    finished(forecast, "a", {"compress": 1.0})
    assert left(forecast, ("a", 3)) == Outlook(1.0, at_least=True)
    finished(forecast, "b", {"compress": 3.0, "retrain": 20.0}, epochs=2)
    assert left(forecast, ("a", 3)) == Outlook(31.0, at_least=False)
    assert left(forecast, ("b", 1), ("b", 0)) == Outlook(16.0, at_least=False)


def test_a_glimpse_has_to_do_until_a_retraining_is_finished():
    forecast = Forecast()
    finished(forecast, "a", {"compress": 1.0})
    forecast.glimpsed(10.0)
    assert left(forecast, ("a", 3), ("b", 0)) == Outlook(32.0, at_least=False)
    finished(forecast, "a", {"compress": 1.0, "retrain": 4.0}, epochs=2)
    assert left(forecast, ("a", 3), ("b", 0)) == Outlook(8.0, at_least=False)


def test_several_processes_share_the_rest():
    forecast = Forecast()
    finished(forecast, "a", {"compress": 2.0})
    finished(forecast, "a", {"compress": 2.0}, here=False)
    assert left(forecast, ("a", 0), ("a", 0)) == Outlook(2.0, at_least=False)
