"""Every option that takes a number, with numbers that nobody means: read from the commands."""

from __future__ import annotations

import inspect
import typing

import pytest

from alds_cli.cli import verbs
from alds_cli.errors import OptionError
from alds_cli.sweeping import geometric_ratios
from alds_cli.text import exact

VALUES = ["-1", "0", "1e308", str(10**30), "1" * 3000, "1e-999999999", "NaN", "inf", "", " ", "٣"]

TEXTS = {
    "ratio", "ratios", "max_params", "max_macs", "max_size", "max_latency", "alpha", "delta",
    "milestones", "retrain_epochs", "mean", "std", "input_shape",
}  # fmt: skip
"""Options that hold numbers in text."""

REQUIRED = {
    "compress": ["no.pt", "-o", "o.pt"],
    "profile": ["no.pt"],
    "inspect": ["no.pt"],
    "evaluate": ["no.pt", "--data", "tensors:no"],
    "retrain": ["no.pt", "--data", "tensors:no", "-o", "o.pt"],
    "sweep": ["no.pt", "--data", "tensors:no", "--methods", "alds", "-o", "sw"],
    "report": ["no"],
}


def numeric_options():
    """(command, option) for each parameter that is a number or a text of numbers."""
    for own in verbs.program().registered_commands:
        hints = typing.get_type_hints(own.callback)
        for name in inspect.signature(own.callback).parameters:
            kinds = set(typing.get_args(hints[name])) or {hints[name]}
            if kinds & {int, float} or name in TEXTS:
                yield own.name, f"--{name.replace('_', '-')}"


OPTIONS = [each for each in numeric_options() if each[0] in REQUIRED]


def test_options_are_found():
    assert {("compress", "--threads"), ("retrain", "--lr"), ("sweep", "--alpha")} <= set(OPTIONS)
    assert len(OPTIONS) > 40


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_numbers_that_nobody_means(run, tmp_path, monkeypatch, command, option):
    """There is no model: whatever the number, the answer comes before any work."""
    monkeypatch.chdir(tmp_path)
    for value in VALUES:
        code, out, err = run(command, *REQUIRED[command], f"{option}={value}")
        assert code == 2, (value, err)
        assert out == ""
        assert err.startswith("error: "), (value, err)
        assert err.count("error: ") == 1
        assert len(err) < 1000
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["0.5", "1/3", " 5e-3 ", ".5", "5.", "1e-999", "0" * 400, "-2", "+0.25"]
)
def test_exact_numbers(text):
    from fractions import Fraction  # noqa: PLC0415

    assert exact(text) == Fraction(text.strip())


@pytest.mark.parametrize(
    "text", ["", "1e9999", "1e-999999999", "1/0", "nan", "inf", "1_0", "٣", "0x1", "1" * 401]
)
def test_what_is_no_exact_number(text):
    with pytest.raises(ValueError, match=r"not a number|division"):
        exact(text)


@pytest.mark.parametrize(("alpha", "steps"), [("1e-9", 1000), ("0.1", 1000), ("1e-999", 1)])
def test_ratios_that_cannot_be_told_apart(alpha, steps):
    with pytest.raises(OptionError, match="told apart"):
        geometric_ratios(alpha, steps)
