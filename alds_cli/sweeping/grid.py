"""The grid of a sweep: its ratios, its runs, and the order in which they are made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from alds_cli.checkpoint import RunKey
from alds_cli.errors import OptionError
from alds_cli.quantities import exact

_DIGITS = 4
"""Decimal places of a ratio, where they tell neighbours well apart."""

_SHARE = Fraction(1, 100)
"""A ratio is rounded by less than this share of its distance to the next."""

_MOST_STEPS = 1000

_MOST_DIGITS = 190
"""Decimal places of a ratio."""

_MOST_RUNS = 100_000


def geometric_ratios(alpha: str | float | Fraction, steps: int) -> list[str]:
    """Ratios 1 − αⁱ for i = 1 … steps: each leaves the same share α of what the last one left.

    They are decimals of four places, of more where those would move a ratio by a hundredth
    of the way to its neighbour; so they ascend strictly and stay below 1.

    Raises:
        OptionError: α does not lie in (0, 1), or there are no steps, or too many.
    """
    try:
        share = exact(str(alpha))
    except ValueError:
        share = Fraction(0)
    if not 0 < share < 1:
        raise OptionError(
            f"alpha is what each step leaves of the last, between 0 and 1, not {alpha}",
            tip="--alpha 0.8",
        )
    if not 1 <= steps <= _MOST_STEPS:
        raise OptionError(
            f"a sweep has 1 to {_MOST_STEPS} steps, not {steps}", tip="--alpha 0.8 --steps 12"
        )
    # The ratios' distance from each other at the end is what takes the most digits to write.
    places = -steps * _log10(share) - _log10(1 - share) - _log10(_SHARE)
    if places > _MOST_DIGITS:
        raise OptionError(
            f"{steps} steps of alpha {alpha} lead so near to 1 that ratios cannot be told apart",
            tip="fewer --steps, or an --alpha further from 0 and 1",
        )
    return [written(_rounded(share, step)) for step in range(1, steps + 1)]


def _log10(value: Fraction) -> float:
    """The logarithm of a number that a float may be too coarse for."""
    return math.log10(value.numerator) - math.log10(value.denominator)


def _rounded(share: Fraction, step: int) -> Fraction:
    """1 − αⁱ to as many decimals as it takes."""
    left = share**step
    gap = left * (1 - share)
    digits = _DIGITS
    while Fraction(1, 10**digits) > gap * _SHARE:
        digits += 1
    return Fraction(round((1 - left) * 10**digits), 10**digits)


def written(ratio: Fraction) -> str:
    """A ratio in (0, 1) without any rounding: `0.488`; `1/3` where no decimal ends."""
    twos = fives = 0
    rest = ratio.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return f"{ratio.numerator}/{ratio.denominator}"
    digits = max(twos, fives)
    return f"0.{int(ratio * 10**digits):0{digits}d}"


def planned_runs(
    methods: Mapping[str, bool],
    ratios: Sequence[str],
    *,
    repeats: int,
    retrain_epochs: Sequence[int],
) -> list[RunKey]:
    """All runs, in the order in which they are made.

    A sweep that stops early can be read: every amount of retraining is begun when the one
    before is complete, every repeat likewise, and within one all methods come to a ratio
    before any goes on to the next. Nothing is random about a run without retraining by a
    method that draws no lots: there is one of those, whatever the number of repeats.

    Args:
        methods: by name, whether it draws random numbers.
        ratios: as they are written.
        repeats: runs that differ in nothing but their seed.
        retrain_epochs: amounts of retraining, 0 for none.

    Raises:
        OptionError: something is missing, given twice or negative.
    """
    for what, given in (
        ("method", list(methods)),
        ("ratio", ratios),
        ("amount of retraining", retrain_epochs),
    ):
        _require_distinct(what, given)
    if repeats < 1:
        raise OptionError(f"a sweep repeats its runs at least once, not {repeats} times")
    runs = len(methods) * len(ratios) * len(retrain_epochs) * repeats
    if runs > _MOST_RUNS:
        raise OptionError(
            f"a sweep has at most {_MOST_RUNS:,} runs, not {runs:,}",
            tip="fewer ratios or repeats",
        )
    if any(epochs < 0 for epochs in retrain_epochs):
        raise OptionError(f"{min(retrain_epochs)} epochs of retraining make no sense")
    return [
        RunKey(method, ratio, repeat, epochs)
        for epochs in retrain_epochs
        for repeat in range(repeats)
        for ratio in ratios
        for method, seeded in methods.items()
        if repeat == 0 or seeded or epochs > 0
    ]


def _require_distinct(what: str, given: Sequence[object]) -> None:
    if not given:
        raise OptionError(f"a sweep needs at least one {what}")
    for number, value in enumerate(given):
        if value in given[:number]:
            raise OptionError(f"the {what} {value} is given twice", tip="name each once")


def agreed(folder: Path, known: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a folder with those that this sweep adds.

    A setting of None, known or asked, is one that nothing has needed yet.

    Args:
        folder: the sweep's, for the message.
        known: its settings, as plain JSON.
        asked: those of the sweep at hand, likewise.

    Raises:
        OptionError: one differs; the message lists all that do.
    """
    merged = {key: value for key, value in known.items() if value is not None}
    differences: list[str] = []
    for key, value in asked.items():
        if value is None:
            continue
        if key in merged:
            differences += _differences(key, merged[key], value)
        else:
            merged[key] = value
    if differences:
        raise OptionError(
            f"the sweep in {folder} was begun differently: " + "; ".join(differences),
            tip="begin another one with -o, or ask for the same as before",
        )
    return {key: merged.get(key) for key in {**known, **asked}}


def _differences(name: str, known: object, asked: object) -> Iterator[str]:
    """What differs, by dotted names within objects."""
    if isinstance(known, Mapping) and isinstance(asked, Mapping):
        for key in {**known, **asked}:
            yield from _differences(f"{name}.{key}", known.get(key), asked.get(key))
    elif known != asked:
        yield f"{name} {_shown(known)}, not {_shown(asked)}"


def _shown(value: object) -> str:
    """Hashes are longer than anybody reads."""
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
