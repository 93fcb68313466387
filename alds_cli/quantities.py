"""Numbers as people write them on a command line: ratios, counts, sizes, times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from alds_cli.errors import OptionError

COUNTS: Mapping[str, int] = MappingProxyType({"": 1, "k": 10**3, "M": 10**6, "G": 10**9})
"""The units of parameters and MACs."""

SIZES: Mapping[str, int] = MappingProxyType(
    {
        "": 1,
        "B": 1,
        "kB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
    }
)
"""The units of bytes."""

TIMES: Mapping[str, int] = MappingProxyType({"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9})
"""The units of time, in nanoseconds."""

_NUMBER = re.compile(
    r"\s*([0-9][0-9_,]{0,99}\.?[0-9_]{0,99}(?:[eE][+-]?[0-9]{1,2})?)\s*([A-Za-z]*)\s*"
)


def parse_ratio(value: str | float | Fraction) -> Fraction:
    """Parse a ratio as an exact number, taking its decimal digits literally.

    Raises:
        OptionError: it is not strictly between 0 and 1.
    """
    try:
        ratio = value if isinstance(value, Fraction) else exact(str(value))
    except ValueError:
        ratio = Fraction(0)
    if not 0 < ratio < 1:
        raise OptionError(
            "the ratio is the fraction of the network to remove, between 0 and 1, not "
            f"{_shortened(value)}",
            tip="--ratio 0.5 leaves at most half of the parameters",
        )
    return ratio


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def parse_quantity(value: str | int, units: Mapping[str, int], option: str) -> int:
    """Parse a positive amount in the smallest unit: `2M` parameters, `5MB`, `3ms`.

    Args:
        value: a number with one of the units, whose case matters only if they differ in
            nothing else; a whole number is an amount of the smallest unit.
        units: the units by suffix; `""` among them allows a bare number.
        option: the option with this value, for the message.

    Raises:
        OptionError: it is not such an amount.
    """
    if isinstance(value, int):
        amount = Fraction(value)
    else:
        found = _NUMBER.fullmatch(value)
        unit = None if found is None else _unit(found[2], units)
        if found is None or unit is None:
            raise _unreadable(value, units, option)
        amount = Fraction(re.sub("[_,]", "", found[1])) * unit
    whole = int(amount)
    if whole < 1:
        raise _unreadable(value, units, option)
    return whole


def _unit(text: str, units: Mapping[str, int]) -> int | None:
    if text in units:
        return units[text]
    folded = {name.lower(): factor for name, factor in units.items()}
    return folded.get(text.lower()) if len(folded) == len(units) else None


def _unreadable(value: str | int, units: Mapping[str, int], option: str) -> OptionError:
    names = [name for name in units if name]
    example = f"{option} 2{names[1 if len(names) < 5 else 2]}"
    return OptionError(
        f"{option} is a positive number with one of the units {', '.join(names)}, not "
        f"{_shortened(value)}",
        tip=f"for example {example}",
    )


_DIGITS = "[0-9]{1,400}"
_EXACT = re.compile(
    rf"[+-]?(?:{_DIGITS}(?:\.[0-9]{{0,400}})?|\.{_DIGITS})(?:[eE][+-]?[0-9]{{1,3}})?"
    rf"|[+-]?{_DIGITS}/{_DIGITS}"
)


def exact(text: str) -> Fraction:
    """Parse a decimal or a quotient of two whole numbers: `0.5`, `5e-3`, `1/3`.

    Texts whose digits or exponent would take long to write out are refused.

    Raises:
        ValueError: it is not a number of that form.
    """
    stripped = text.strip()
    if _EXACT.fullmatch(stripped) is None:
        raise ValueError(f"not a number: {text[:40]!r}")
    try:
        return Fraction(stripped)
    except ZeroDivisionError as error:
        raise ValueError(f"a division by zero: {text[:40]!r}") from error
