"""The numbers that options take, each within bounds that its refusal states."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable

import typer

MOST_SEED = 2**63 - 1
"""Of random generators."""

MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))
"""More help nobody, and a system may refuse to start them."""

MOST_SAMPLES = 2**16
"""In a batch."""

MOST_IMAGES = 10**9
"""Of a data set."""

MOST_EPOCHS = 100_000

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_REAL = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?")


def whole(least: int, most: int) -> Callable[[str | int], int]:
    """A reader of whole numbers from `least` to `most`.

    It raises BadParameter for everything else.
    """

    def read(given: str | int) -> int:
        text = str(given).strip()
        if _WHOLE.fullmatch(text) is None or not least <= int(text) <= most:
            raise typer.BadParameter(
                f"it is a whole number from {least:,} to {most:,}, not {_quoted(text)}"
            )
        return int(text)

    read.__name__ = "int"  # as help pages call what it reads
    return read


def real(
    least: float, most: float, *, above: bool = False, below: bool = False
) -> Callable[[str | float], float]:
    """A reader of numbers from `least` to `most`.

    Args:
        least: the least of them, or with `above` what they are all larger than.
        most: the largest, or with `below` what they are all smaller than.
        above: leave `least` out.
        below: leave `most` out.
    """
    from_least = f"above {least:,.15g}" if above else f"from {least:,.15g}"
    to_most = f"to below {most:,.15g}" if below else f"to {most:,.15g}"
    bounds = f"{from_least} {to_most}"
    if above and not below:
        bounds = f"{from_least}, at most {most:,.15g}"

    def read(given: str | float) -> float:
        text = str(given).strip()
        number = float(text) if _REAL.fullmatch(text) else math.nan
        inside = (number > least if above else number >= least) and (
            number < most if below else number <= most
        )
        if not inside:
            raise typer.BadParameter(f"it is a number {bounds}, not {_quoted(text)}")
        return number

    read.__name__ = "float"
    return read


def _quoted(text: str) -> str:
    return f"'{text}'" if len(text) <= 40 else f"'{text[:40]}…'"
