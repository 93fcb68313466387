"""Text that people write and text that they are shown: numbers, lists, and foreign names.

Ratios, counts, sizes and times are read exactly. Foreign text is made safe for terminals: no
character may control, hide or reorder.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def parse_ratio(value: str | float | Fraction, option: str = "--ratio") -> Fraction:
    """Parse a ratio as an exact number, taking its decimal digits literally.

    Args:
        value: the ratio.
        option: the option that it was given to, for the tip.

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
            tip=f"{option} 0.5 leaves at most half of the parameters",
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
        least = f"1 {next((name for name, factor in units.items() if name and factor == 1), '')}"
        raise OptionError(f"{option} is at least {least.rstrip()}, not {_shortened(value)}")
    return whole


_UNLIMITED = 2**62
"""A limit beyond any network that keeps sums within 64-bit integers."""


def parse_limits(
    *,
    max_params: str | int | None,
    max_macs: str | int | None,
    max_size: str | int | None,
    max_latency: str | int | None,
) -> dict[str, int]:
    """Return the limits that are given, by resource: params, macs, bytes and latency in ns.

    Raises:
        OptionError: one is no positive amount.
    """
    given = {
        "params": (max_params, COUNTS, "--max-params"),
        "macs": (max_macs, COUNTS, "--max-macs"),
        "bytes": (max_size, SIZES, "--max-size"),
        "latency": (max_latency, TIMES, "--max-latency"),
    }
    return {
        name: min(parse_quantity(value, units, option), _UNLIMITED)
        for name, (value, units, option) in given.items()
        if value is not None
    }


def _unit(text: str, units: Mapping[str, int]) -> int | None:
    if text in units:
        return units[text]
    folded = {name.lower(): factor for name, factor in units.items()}
    return folded.get(text.lower()) if len(folded) == len(units) else None


def _unreadable(value: str | int, units: Mapping[str, int], option: str) -> OptionError:
    names = [name for name in units if name]
    example = f"{option} 2{next(name for name in names if units[name] == 10**6)}"
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


MOST_SEED = 2**63 - 1
"""The largest seed of a random generator."""

MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))
"""The most threads: more would not help, and a system may refuse to start them."""

MOST_SAMPLES = 2**16
"""The most samples in a batch."""

MOST_IMAGES = 10**9
"""The most images of a data set."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_REAL = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?")


@dataclass(frozen=True, slots=True)
class Whole:
    """The whole numbers from `least` to `most`."""

    least: int
    most: int

    def read(self, text: str) -> int:
        """Read a number.

        Raises:
            ValueError: the text is not a number, or is not within the bounds.
        """
        stripped = text.strip()
        if _WHOLE.fullmatch(stripped) is None or not self.least <= int(stripped) <= self.most:
            raise ValueError(
                f"a whole number from {self.least:,} to {self.most:,}, not {_quoted(stripped)}"
            )
        return int(stripped)


@dataclass(frozen=True, slots=True)
class Real:
    """Numbers from `least` to `most`; `above` leaves `least` out, `below` leaves `most` out."""

    least: float
    most: float
    above: bool = False
    below: bool = False

    def read(self, text: str) -> float:
        """Read a number.

        Raises:
            ValueError: the text is not a number, or is not within the bounds.
        """
        stripped = text.strip()
        number = float(stripped) if _REAL.fullmatch(stripped) else math.nan
        inside = (number > self.least if self.above else number >= self.least) and (
            number < self.most if self.below else number <= self.most
        )
        if not inside:
            raise ValueError(f"a number {self._in_words()}, not {_quoted(stripped)}")
        return number

    def _in_words(self) -> str:
        if self.above and not self.below:
            return f"above {self.least:,.15g}, at most {self.most:,.15g}"
        start = f"above {self.least:,.15g}" if self.above else f"from {self.least:,.15g}"
        end = f"to below {self.most:,.15g}" if self.below else f"to {self.most:,.15g}"
        return f"{start} {end}"


def _quoted(text: str) -> str:
    return f"'{_shortened(text)}'"


_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"})
"""Unicode's categories of invisible characters: controls, formats, surrogates, separators."""

_IGNORED = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0000, 0xE0FFF),
)
"""Letters and marks that are invisible, too: Unicode's "default ignorable code points"."""

_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str, keep: str = "") -> str:
    r"""Write out every invisible character of a text: `\x1b`, `\u202e`, `\n`.

    Args:
        text: a text from a file, an argument or a library.
        keep: characters that stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if sign in keep or _is_seen(sign) else _escape(sign) for sign in text)


def _is_seen(sign: str) -> bool:
    if unicodedata.category(sign) in _HIDDEN:
        return False
    code = ord(sign)
    return not any(first <= code <= last for first, last in _IGNORED)


def _escape(sign: str) -> str:
    code = ord(sign)
    if code < 0x100:
        return _NAMED.get(sign, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def count(value: int | None) -> str:
    """Format a whole number with separators; a dash stands for an unknown one."""
    return "–" if value is None else f"{value:,}"


def short_count(value: int | None) -> str:
    """Format a whole number with three digits and a letter for its thousands."""
    if value is None:
        return "–"
    amount, letter, letters = float(value), "", iter("kMGTP")
    while amount >= 999.5:
        amount, letter = amount / 1000, next(letters)
    return f"{amount:.3g}{letter}"


def size(nbytes: int | None) -> str:
    """Format a number of bytes in decimal units, as file managers do."""
    if nbytes is None:
        return "–"
    amount = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.2f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"


def extents(shape: Sequence[int]) -> str:
    """Format the shape of a tensor."""
    return "×".join(map(str, shape))


def milliseconds(median: float, lower: float, upper: float) -> str:
    """Format the median and the quartiles of times."""
    return f"{median:.3f} ms ({lower:.3f}–{upper:.3f})"


def removed(before: int | None, after: int | None) -> str:
    """Format the fraction that was removed, in per cent."""
    if not before or after is None:
        return "–"
    return minus(f"{100 * (1 - after / before):.2f} %")


def signed(value: float, form: str) -> str:
    """Format a difference with its sign, with a true minus sign instead of a hyphen."""
    return minus(f"{value:+{form}}")


def minus(number: str) -> str:
    """Put a true minus sign in the place of a hyphen."""
    return number.replace("-", "−")


def per_cent(share: float | None) -> str:
    """Show a share in per cent; a dash where there is none."""
    return "–" if share is None else f"{share:.2f} %"
