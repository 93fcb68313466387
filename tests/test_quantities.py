"""Amounts as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alds_cli.compression import refusals
from alds_cli.compression.targets import Budget, Resource
from alds_cli.errors import OptionError
from alds_cli.text import (
    COUNTS,
    SIZES,
    TIMES,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "units", "amount"),
    [
        ("2M", COUNTS, 2_000_000),
        ("2m", COUNTS, 2_000_000),
        ("2.5k", COUNTS, 2500),
        ("0.5G", COUNTS, 500_000_000),
        ("1e6", COUNTS, 1_000_000),
        ("1_000", COUNTS, 1000),
        ("1,234,567", COUNTS, 1_234_567),
        (" 7 ", COUNTS, 7),
        ("1.9", COUNTS, 1),
        (12, COUNTS, 12),
        ("5MB", SIZES, 5_000_000),
        ("5 MB", SIZES, 5_000_000),
        ("5mb", SIZES, 5_000_000),
        ("4.5MiB", SIZES, 4_718_592),
        ("1KiB", SIZES, 1024),
        ("700kB", SIZES, 700_000),
        ("12B", SIZES, 12),
        ("0.1MB", SIZES, 100_000),
        ("3ms", TIMES, 3_000_000),
        ("0.3ms", TIMES, 300_000),
        ("250us", TIMES, 250_000),
        ("1s", TIMES, 1_000_000_000),
    ],
)
def test_amounts_are_what_they_say(text, units, amount):
    assert parse_quantity(text, units, "--max") == amount


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("", COUNTS),
        ("M", COUNTS),
        ("-2M", COUNTS),
        ("2X", COUNTS),
        ("2MB", COUNTS),
        ("nan", COUNTS),
        ("inf", COUNTS),
        ("1e999", COUNTS),
        ("2 M M", COUNTS),
        ("3", TIMES),
        ("3 minutes", TIMES),
        ("5Mb/s", SIZES),
        ("５MB", SIZES),
    ],
)
def test_what_is_no_amount_is_refused_with_an_example(text, units):
    with pytest.raises(OptionError, match="--max-thing is a positive number") as caught:
        parse_quantity(text, units, "--max-thing")
    example = caught.value.tip.rpartition(" ")[2]
    assert parse_quantity(example, units, "--max-thing") > 0


@pytest.mark.parametrize(
    ("text", "units", "least"),
    [
        ("0", COUNTS, "1"),
        ("0.4", COUNTS, "1"),
        (0, COUNTS, "1"),
        (-3, COUNTS, "1"),
        ("0kB", SIZES, "1 B"),
        ("0.0001us", TIMES, "1 ns"),
    ],
)
def test_what_is_less_than_the_smallest_unit_is_refused(text, units, least):
    with pytest.raises(OptionError, match=f"--max-thing is at least {least}, not {text}"):
        parse_quantity(text, units, "--max-thing")


@given(st.integers(1, 10**15), st.sampled_from(list(SIZES)))
def test_whole_numbers_are_exact(number, unit):
    assert parse_quantity(f"{number}{unit}", SIZES, "--max-size") == number * SIZES[unit]


@given(st.integers(1, 2**62), st.sampled_from(["params", "macs", "bytes", "latency"]))
def test_limits_in_errors_are_exact_and_can_be_typed(amount, name):
    resource = Resource(name, amount, 0, {}, lambda _spec, choices: choices[:, 0])
    told = refusals.out_of_reach(Budget(resource, amount), amount - 1, "make").message
    option, typed, *_ = told.split()
    units = {"bytes": SIZES, "latency": TIMES}.get(name, COUNTS)
    assert parse_quantity(typed, units, option) == amount


@pytest.mark.parametrize(
    ("name", "amount", "written"),
    [
        ("params", 2_000_000, "--max-params 2M"),
        ("macs", 1_234_567, "--max-macs 1234.567k"),
        ("bytes", 300_000, "--max-size 300kB"),
        ("bytes", 999, "--max-size 999B"),
        ("latency", 1, "--max-latency 1ns"),
        ("latency", 3_250_000, "--max-latency 3.25ms"),
    ],
)
def test_limits_in_errors_have_the_units_that_people_write(name, amount, written):
    resource = Resource(name, 1, 0, {}, lambda _spec, choices: choices[:, 0])
    told = refusals.out_of_reach(Budget(resource, amount), 1, "make").message
    assert told.startswith(f"{written} cannot be reached")
