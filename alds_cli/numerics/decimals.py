"""Numbers as people write them, read exactly and in little time."""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = "[0-9]{1,400}"
_NUMBER = re.compile(
    rf"[+-]?(?:{_DIGITS}(?:\.[0-9]{{0,400}})?|\.{_DIGITS})(?:[eE][+-]?[0-9]{{1,3}})?"
    rf"|[+-]?{_DIGITS}/{_DIGITS}"
)


def exact(text: str) -> Fraction:
    """A decimal or a quotient of two whole numbers: `0.5`, `5e-3`, `1/3`.

    Texts whose digits or exponent would take long to write out are no numbers here.

    Raises:
        ValueError: it is none.
    """
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped) is None:
        raise ValueError(f"not a number: {text[:40]!r}")
    try:
        return Fraction(stripped)
    except ZeroDivisionError as error:
        raise ValueError(f"a division by zero: {text[:40]!r}") from error
