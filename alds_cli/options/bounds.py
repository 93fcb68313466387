"""The numbers that options take, and their bounds, which error messages state."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

MOST_SEED = 2**63 - 1
"""The largest seed of a random generator."""

MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))
"""The most threads: more would not help, and a system may refuse to start them."""

MOST_SAMPLES = 2**16
"""The most samples in a batch."""

MOST_IMAGES = 10**9
"""The most images of a data set."""

MOST_EPOCHS = 100_000
"""The most epochs of a training."""

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
    return f"'{text}'" if len(text) <= 40 else f"'{text[:40]}…'"
